/**
 * What a detached job writes: pieces of { u8 1 or 2 for stdout or stderr, u32 length, bytes }, in files that are
 * named by how many bytes were written before them. The newest files are kept.
 */
import { closeSync, openSync, readdirSync, readSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Bytes of one file, of which two are kept: a build's log of 8 MiB is longer than most, and fifty kept jobs of a
 * user's take less than a gigabyte.
 */
const LOG_FILE_BYTES = 8 << 20;

/** Bytes of one piece at the most. */
export const PIECE = 64 * 1024;

const HEADER = 5;

const PREFIX = 'output-';

function logFiles(folder: string): { readonly path: string; readonly start: number }[] {
  return readdirSync(folder)
    .filter((name) => name.startsWith(PREFIX))
    .map((name) => ({ path: join(folder, name), start: Number(name.slice(PREFIX.length)) }))
    .sort((a, b) => a.start - b.start);
}

export class JobLog implements Disposable {
  readonly #folder: string;
  #fd: number | undefined;
  /** Of the file that is open. */
  #start = 0;
  #before: string | undefined;
  #path = '';
  /** Bytes that were written. */
  at = 0;

  constructor(folder: string) {
    this.#folder = folder;
    this.#open();
  }

  /** @param piece {@link PIECE} bytes at the most */
  write(output: 1 | 2, piece: Buffer): void {
    const header = Buffer.alloc(HEADER);
    header.writeUInt8(output, 0);
    header.writeUInt32LE(piece.length, 1);
    if (this.at - this.#start + HEADER + piece.length > LOG_FILE_BYTES) this.#open();
    if (this.#fd === undefined) return;
    writeSync(this.#fd, Buffer.concat([header, piece]));
    this.at += HEADER + piece.length;
  }

  #open(): void {
    this[Symbol.dispose]();
    if (this.#before !== undefined) rmSync(this.#before, { force: true });
    this.#before = this.#path === '' ? undefined : this.#path;
    this.#start = this.at;
    this.#path = join(this.#folder, `${PREFIX}${this.at}`);
    this.#fd = openSync(this.#path, 'wx', 0o600);
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

/** A piece of output, in the order in which it was written. */
export interface LogPiece {
  readonly output: 1 | 2;
  readonly bytes: Buffer;
}

/** Reads what is kept of a job's output, up to `until` bytes of all that was written. */
export function* readJobLog(
  folder: string,
  until: number = Number.POSITIVE_INFINITY,
): Generator<LogPiece> {
  // Open before anything is given: the oldest may be removed meanwhile.
  const files = logFiles(folder).map(({ path, start }) => ({ start, fd: openSync(path, 'r') }));
  try {
    for (const { fd, start } of files) {
      const header = Buffer.alloc(HEADER);
      for (let at = 0; start + at < until; ) {
        if (readSync(fd, header, 0, HEADER, at) < HEADER) break;
        const length = header.readUInt32LE(1);
        if (length > PIECE) break;
        const bytes = Buffer.alloc(length);
        // The last piece may be in the middle of being written.
        if (readSync(fd, bytes, 0, length, at + HEADER) < length) break;
        yield { output: header.readUInt8(0) === 1 ? 1 : 2, bytes };
        at += HEADER + length;
      }
    }
  } finally {
    for (const { fd } of files) closeSync(fd);
  }
}
