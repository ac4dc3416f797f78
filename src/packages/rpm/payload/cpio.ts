/**
 * The payload's archive: cpio "newc" (070701, 070702), or rpm's own stripped form (07070X) in which
 * an entry is only the number of a file of the header. Sources: cpio(5); rpm's lib/cpio.cc and
 * docs/manual/large_files.md.
 */
import { rpmError } from '../errors.ts';

const MAGIC_SIZE = 6;
const STRIPPED_SIZE = MAGIC_SIZE + 8;
const NEWC_SIZE = MAGIC_SIZE + 13 * 8;
/** Positions of newc's 8-digit fields. */
const Field = { mode: 14, size: 54, nameSize: 94 };
const TRAILER = 'TRAILER!!!';
/** PATH_MAX of linux/limits.h. */
const MAX_NAME = 4096;

/** One entry's head. */
export type CpioEntry =
  | { readonly kind: 'named'; readonly name: Buffer; readonly mode: number; readonly size: number }
  /** `index` is the file's place in the header. */
  | { readonly kind: 'stripped'; readonly index: number };

/** What is done with the archive. Buffers are valid only during the call. */
export interface CpioVisitor {
  /** A new entry; returns how many bytes of data follow it. */
  begin(entry: CpioEntry): number;
  data(piece: Buffer): void;
  /** All data of the entry has been seen. */
  end(): void;
}

/** Takes an archive in pieces of any size and shows its entries to a visitor. */
export class CpioParser {
  readonly #visitor: CpioVisitor;
  #held: Buffer = Buffer.alloc(0);
  /** Bytes of data still to come, then of padding. */
  #data = 0;
  #padding = 0;
  #inEntry = false;
  #finished = false;

  constructor(visitor: CpioVisitor) {
    this.#visitor = visitor;
  }

  /** The trailer has been seen; whatever follows is ignored. */
  get finished(): boolean {
    return this.#finished;
  }

  /** @throws KilnError E_RPM_FORMAT for what is no such archive; whatever the visitor throws. */
  push(piece: Buffer): void {
    const bytes = this.#held.length === 0 ? piece : Buffer.concat([this.#held, piece]);
    let at = 0;
    while (!this.#finished) {
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
    this.#held = this.#finished ? Buffer.alloc(0) : Buffer.from(bytes.subarray(at));
  }

  /** @throws KilnError E_RPM_FORMAT when the archive ended too early. */
  finish(): void {
    if (!this.#finished) throw rpmError('E_RPM_FORMAT', 'its payload is cut off');
  }

  /** Passes data on and skips padding; returns the new position. */
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

  /** Reads an entry's head; undefined while it is not all there. */
  #head(bytes: Buffer, at: number): number | undefined {
    if (bytes.length - at < STRIPPED_SIZE) return undefined;
    const magic = bytes.toString('latin1', at, at + MAGIC_SIZE);
    if (magic === '07070X') {
      const index = hex(bytes, at + MAGIC_SIZE);
      this.#start(this.#visitor.begin({ kind: 'stripped', index }));
      return at + padded(STRIPPED_SIZE);
    }
    if (magic !== '070701' && magic !== '070702') {
      throw rpmError('E_RPM_FORMAT', 'its payload is no cpio archive, or is damaged');
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
      this.#finished = true;
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

/** Eight hexadecimal digits. */
function hex(bytes: Buffer, at: number): number {
  const text = bytes.toString('latin1', at, at + 8);
  if (!/^[0-9a-fA-F]{8}$/.test(text)) {
    throw rpmError('E_RPM_FORMAT', 'its payload is damaged: a field is not a number');
  }
  return Number.parseInt(text, 16);
}
