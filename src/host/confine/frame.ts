/** A message is a little-endian 32-bit length, then JSON. The reader trusts nothing. */
import { defined } from '../../defined.ts';
import { isErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { DISK_FULL, isDiskFull, knownFailure, reasonLines } from '../calls/system-error.ts';
import type { FlatError } from './task.ts';

/** Bytes. A package of 100,000 files takes about 35 MB. */
const MAX_FRAME = 256 * 1024 * 1024;

const HEADER = 4;

/** JSON.stringify escapes lone surrogates, so any string survives. */
export function encodeFrame(value: unknown): Buffer {
  const body = Buffer.from(JSON.stringify(value));
  if (body.length > MAX_FRAME) {
    throw new KilnError('E_CONFINE_PROTOCOL', `a message of ${body.length} bytes is too long`);
  }
  const frame = Buffer.allocUnsafe(HEADER + body.length);
  frame.writeUInt32LE(body.length);
  body.copy(frame, HEADER);
  return frame;
}

export class FrameDecoder {
  #chunks: Buffer[] = [];
  #held = 0;
  readonly #longest: number;

  constructor(longest: number = MAX_FRAME) {
    this.#longest = longest;
  }

  get pending(): number {
    return this.#held;
  }

  *push(chunk: Buffer): Generator<unknown> {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    for (let length = this.#wanted(); this.#held >= length; length = this.#wanted()) {
      const body = this.#take(length).subarray(HEADER);
      let message: unknown;
      try {
        message = JSON.parse(body.toString('utf8'));
      } catch (cause) {
        throw new KilnError('E_CONFINE_PROTOCOL', 'a message is not JSON', { cause });
      }
      yield message;
    }
  }

  #wanted(): number {
    if (this.#held < HEADER) return Number.POSITIVE_INFINITY;
    if (this.#chunks[0]!.length < HEADER) this.#chunks = [Buffer.concat(this.#chunks)];
    const length = this.#chunks[0]!.readUInt32LE();
    if (length > this.#longest) {
      throw new KilnError('E_CONFINE_PROTOCOL', `a message of ${length} bytes is too long`, {
        hint: `it may have ${this.#longest} bytes`,
      });
    }
    return HEADER + length;
  }

  #take(length: number): Buffer {
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = all.length > length ? [all.subarray(length)] : [];
    this.#held -= length;
    return all.subarray(0, length);
  }
}

const MAX_TEXT = 4096;
const MAX_CAUSES = 8;

export function flattenError(error: unknown): FlatError {
  const causes = reasonLines(error instanceof Error ? error.cause : undefined, MAX_CAUSES);
  const known = knownFailure(error);
  if (known === undefined) {
    if (isDiskFull(error)) {
      return { code: DISK_FULL, message: 'no space left on the device', causes };
    }
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { code: 'E_INTERNAL', message, causes };
  }
  return {
    code: known.code,
    message: known.message,
    causes,
    ...defined({ hint: known.hint, details: known.details }),
  };
}

/** What {@link flattenError} made. Fields of another form are replaced or cut. */
export function rebuildError(value: unknown): KilnError {
  const flat = (typeof value === 'object' && value !== null ? value : {}) as Partial<FlatError>;
  const code = isErrorCode(flat.code) ? flat.code : 'E_CONFINE_PROTOCOL';
  const causes = Array.isArray(flat.causes) ? flat.causes.slice(0, MAX_CAUSES) : [];
  let cause: Error | undefined;
  for (const text of causes.reverse()) {
    cause = new Error(printable(text), cause === undefined ? undefined : { cause });
  }
  return new KilnError(code, printable(flat.message), {
    ...(flat.hint === undefined ? {} : { hint: printable(flat.hint) }),
    cause,
    ...(typeof flat.details === 'object' && flat.details !== null ? { details: flat.details } : {}),
  });
}

export function fileError(file: string, error: KilnError): KilnError {
  return new KilnError(error.code, `${file}: ${error.message}`, {
    hint: error.hint,
    details: error.details,
    cause: error.cause,
  });
}

function printable(text: unknown): string {
  return String(text ?? 'no reason given')
    .slice(0, MAX_TEXT)
    .replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '\ufffd');
}
