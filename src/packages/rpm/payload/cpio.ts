/**
 * The payload's archive: cpio "newc" (070701, 070702), or rpm's own stripped form (07070X), whose entries are only
 * numbers of files of the header. Sources: cpio(5); rpm's lib/cpio.cc and docs/manual/large_files.md.
 */
import { rpmError } from '../package.ts';

const MAGIC_SIZE = 6;
const STRIPPED_SIZE = MAGIC_SIZE + 8;
const NEWC_SIZE = MAGIC_SIZE + 13 * 8;
const Field = { mode: 14, size: 54, nameSize: 94 };
const TRAILER = 'TRAILER!!!';
/** PATH_MAX of linux/limits.h. */
const MAX_NAME = 4096;

export type CpioEntry =
  | { readonly kind: 'named'; readonly name: Buffer; readonly mode: number; readonly size: number }
  | { readonly kind: 'stripped'; readonly index: number };

export interface CpioVisitor {
  begin(entry: CpioEntry): number;
  data(piece: Buffer): void;
  end(): void;
}

export class CpioParser {
  readonly #visitor: CpioVisitor;
  #held: Buffer = Buffer.alloc(0);
  #data = 0;
  #padding = 0;
  #inEntry = false;
  finished = false;

  constructor(visitor: CpioVisitor) {
    this.#visitor = visitor;
  }

  push(piece: Buffer): void {
    const bytes = this.#held.length === 0 ? piece : Buffer.concat([this.#held, piece]);
    let at = 0;
    while (!this.finished) {
      if (this.#inEntry) {
        const next = this.#pass(bytes, at);
        if (next === at && this.#inEntry) break;
        at = next;
        continue;
      }
      const head = this.#head(bytes, at);
      if (head === undefined) break;
      at = head;
    }
    // A copy: the piece is the caller's.
    this.#held = this.finished ? Buffer.alloc(0) : Buffer.from(bytes.subarray(at));
  }

  finish(): void {
    if (!this.finished) throw rpmError('E_RPM_FORMAT', 'its payload is cut off');
  }

  #pass(bytes: Buffer, start: number): number {
    let at = start;
    if (this.#data > 0) {
      const piece = bytes.subarray(at, at + this.#data);
      if (piece.length > 0) this.#visitor.data(piece);
      at += piece.length;
      this.#data -= piece.length;
      if (this.#data > 0) return at;
    }
    const skipped = Math.min(this.#padding, bytes.length - at);
    this.#padding -= skipped;
    if (this.#padding === 0) {
      this.#inEntry = false;
      this.#visitor.end();
    }
    return at + skipped;
  }

  #head(bytes: Buffer, at: number): number | undefined {
    if (bytes.length - at < STRIPPED_SIZE) return undefined;
    const magic = bytes.toString('latin1', at, at + MAGIC_SIZE);
    if (magic === '07070X') {
      const index = hex(bytes, at + MAGIC_SIZE);
      this.#start(this.#visitor.begin({ kind: 'stripped', index }));
      return at + padded(STRIPPED_SIZE);
    }
    if (magic !== '070701' && magic !== '070702') {
      throw rpmError('E_RPM_FORMAT', 'its payload is damaged, or not a cpio archive');
    }
    if (bytes.length - at < NEWC_SIZE) return undefined;
    const nameSize = hex(bytes, at + Field.nameSize);
    if (nameSize === 0 || nameSize > MAX_NAME) {
      throw rpmError('E_RPM_FORMAT', `its payload has a name of ${nameSize} bytes`);
    }
    const end = padded(NEWC_SIZE + nameSize);
    if (bytes.length - at < end) return undefined;
    const name = bytes.subarray(at + NEWC_SIZE, at + NEWC_SIZE + nameSize - 1);
    if (name.toString('latin1') === TRAILER) {
      this.finished = true;
      return at + end;
    }
    const size = hex(bytes, at + Field.size);
    const mode = hex(bytes, at + Field.mode);
    this.#start(this.#visitor.begin({ kind: 'named', name, mode, size }));
    return at + end;
  }

  #start(size: number): void {
    this.#data = size;
    this.#padding = padded(size) - size;
    this.#inEntry = true;
  }
}

function padded(size: number): number {
  return Math.ceil(size / 4) * 4;
}

function hex(bytes: Buffer, at: number): number {
  const text = bytes.toString('latin1', at, at + 8);
  if (!/^[0-9a-fA-F]{8}$/.test(text)) {
    throw rpmError('E_RPM_FORMAT', 'its payload is damaged: a field is not a number');
  }
  return Number.parseInt(text, 16);
}
