/**
 * What a detached job writes: pieces of { u8 1 or 2 for stdout or stderr, u32 length, bytes }, in files named
 * by how many bytes were written before them. The newest are kept.
 */
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { unlessErrno } from '../host/calls/libc.ts';

/** Two files are kept: most builds' logs are shorter, and fifty kept jobs take less than a gigabyte. */
const LOG_FILE_BYTES = 8 << 20;

export const PIECE = 64 * 1024;

const HEADER = 5;

/** Bytes that a job has on the disk from its start, for its last words and its record where nothing else has room. */
const RESERVE = 64 * 1024;

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
  #start = 0;
  #before: string | undefined;
  #path = '';
  at = 0;

  constructor(folder: string) {
    this.#folder = folder;
    // First what may fail: nothing is open then.
    writeFileSync(this.#reserve, Buffer.alloc(RESERVE, '.'), { mode: 0o600 });
    this.#open();
  }

  get #reserve(): string {
    return join(this.#folder, 'reserve');
  }

  giveRoom(): void {
    rmSync(this.#reserve, { force: true });
  }

  /** All of it is written, or nothing. @param piece {@link PIECE} bytes at the most @throws the system's error */
  write(output: 1 | 2, piece: Buffer): void {
    const header = Buffer.alloc(HEADER);
    header.writeUInt8(output, 0);
    header.writeUInt32LE(piece.length, 1);
    if (this.at - this.#start + HEADER + piece.length > LOG_FILE_BYTES) this.#open();
    if (this.#fd === undefined) return;
    const bytes = Buffer.concat([header, piece]);
    const from = this.at - this.#start;
    try {
      for (let at = 0; at < bytes.length; ) {
        at += writeSync(this.#fd, bytes, at, bytes.length - at, from + at);
      }
    } catch (error) {
      ftruncateSync(this.#fd, from);
      throw error;
    }
    this.at += bytes.length;
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

export interface LogPiece {
  readonly output: 1 | 2;
  readonly bytes: Buffer;
}

export function* readJobLog(
  folder: string,
  until: number = Number.POSITIVE_INFINITY,
): Generator<LogPiece> {
  // Open before anything is given: the oldest may be removed meanwhile, or was since it was listed.
  const files = logFiles(folder).flatMap(({ path, start }) => {
    const fd = unlessErrno(['ENOENT'], () => openSync(path, 'r'));
    return fd === undefined ? [] : [{ start, fd }];
  });
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
