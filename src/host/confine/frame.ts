/**
 * Messages between kiln and a confined child: a little-endian 32-bit length, then that many bytes of JSON. Both
 * directions use this format, and the reader trusts nothing.
 */
import { defined } from '../../defined.ts';
import { isErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { DISK_FULL, isDiskFull, knownFailure, reasonLine } from '../calls/system-error.ts';
import type { FlatError } from './task.ts';

/** No message may be longer, bytes. A package of 100,000 files takes about 35 MB. */
const MAX_FRAME = 256 * 1024 * 1024;

const HEADER = 4;

/** One message as bytes. JSON.stringify escapes lone surrogates, so any string survives. */
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

/** Cuts a stream of bytes into messages. */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #held = 0;
  readonly #longest: number;

  /** @param longest bytes that a message may have */
  constructor(longest: number = MAX_FRAME) {
    this.#longest = longest;
  }

  /** Bytes of a message that has not ended yet. */
  get pending(): number {
    return this.#held;
  }

  /**
   * Takes the next bytes and yields each message that is now whole.
   * @throws KilnError E_CONFINE_PROTOCOL for a message that is too long or no JSON.
   */
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

  /** Bytes the next message takes with its header; Infinity while the header is not all here. */
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

/* Errors across the pipe: the child flattens them, and the parent rebuilds them without trusting a field. */

/** Longer messages are cut: nobody reads more. */
const MAX_TEXT = 4096;
const MAX_CAUSES = 8;

/** An error as plain data. An error that is not a KilnError is a bug, so its stack is included. */
export function flattenError(error: unknown): FlatError {
  const causes: string[] = [];
  for (
    let cause = error instanceof Error ? error.cause : undefined;
    cause instanceof Error && causes.length < MAX_CAUSES;
    cause = cause.cause
  ) {
    causes.push(reasonLine(cause));
  }
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

/** Rebuilds the error that {@link flattenError} made. Fields of another form are replaced or cut. */
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

/** The same error with the file's name in front. */
export function aboutFile(file: string, error: KilnError): KilnError {
  return new KilnError(error.code, `${file}: ${error.message}`, {
    hint: error.hint,
    details: error.details,
    cause: error.cause,
  });
}

/** Text without characters that control a terminal. */
function printable(text: unknown): string {
  return String(text ?? 'no reason given')
    .slice(0, MAX_TEXT)
    .replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '\ufffd');
}
