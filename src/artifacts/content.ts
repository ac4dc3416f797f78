/** Copies the content of one open file to another and hashes it on the way. */

import { hash } from 'node:crypto';
import { ftruncateSync, read, readSync, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { SyscallError } from '../kernel/libc.ts';
import { type PooledSha256, pooledSha256 } from '../kernel/pooled-sha256.ts';
import { dataExtents, type Extent } from '../kernel/sparse.ts';
import { awaitedLater } from '../promise.ts';
import type { Budget } from './budget.ts';

/** Files up to this size are copied in one go, with one-shot hashing. */
const SMALL = 256 * 1024;
/**
 * Above it, in pieces: while one is read and written here, the one before is hashed in the thread pool. Node's
 * own hash is for this thread only, and reads and writes in the pool wake more threads than there are
 * processors. Measured in turns, 1 GB: pieces of 2 MiB 0.78 s, of 4 MiB 0.69, of 8 MiB 0.71.
 */
const PIECE = 4 * 1024 * 1024;
/**
 * Once a piece has taken so long (with a disk that has to be waited for, a file system over a network), the rest
 * of its file is read and written in the pool, ms: others of this thread must not wait, too.
 */
const SLOW_MS = 20;
/** st_blocks counts these, whatever the file system's own block size. */
const STAT_BLOCK = 512;

const readAt = promisify(read);
const writeAt = promisify(write);

/** What was copied. */
export interface CopiedContent {
  /** Bytes that were read, holes included; less than asked for if the file shrank. */
  readonly size: number;
  /** Of all `size` bytes, hex. */
  readonly sha256: string;
}

/** The source could not be read (`cause` says why), as opposed to the copy not being written. */
export class ReadFailed extends Error {
  constructor(cause: unknown) {
    super('the source could not be read', { cause });
    this.name = 'ReadFailed';
  }
}

let smallBuffer: Buffer | undefined;
let zeros: Buffer | undefined;

/**
 * Copies the first `size` bytes of `from` into the empty file `to` and returns their digest.
 * Holes stay holes. Counts bytes against `budget` before they are copied.
 *
 * @param blocks `st_blocks` of the source: fewer than `size` needs means there are holes
 * @param slowMs how long a piece of a large file may hold up this thread before the pool copies the others
 * @throws ReadFailed; the system error of a write; KilnError E_ARTIFACT_LIMIT
 */
export function copyContent(
  from: number,
  to: number,
  size: number,
  blocks: number,
  budget: Budget,
  slowMs = SLOW_MS,
): CopiedContent | Promise<CopiedContent> {
  const sparse = blocks * STAT_BLOCK < size;
  if (size <= SMALL && !sparse) return copySmall(from, to, size, budget);
  return copyLarge({ from, to, size, slowMs }, sparse, budget);
}

function copySmall(from: number, to: number, size: number, budget: Budget): CopiedContent {
  budget.spend('bytes', size);
  smallBuffer ??= Buffer.allocUnsafeSlow(SMALL);
  const content = readPiece(from, smallBuffer.subarray(0, size), 0);
  writePiece(to, content, 0);
  return { size: content.length, sha256: hash('sha256', content, 'hex') };
}

/** Fills `buffer` from there on, or less of it at the end of the file; returns what is filled. */
function readPiece(from: number, buffer: Buffer, at: number): Buffer {
  let length = 0;
  try {
    while (length < buffer.length) {
      const got = readSync(from, buffer, length, buffer.length - length, at + length);
      if (got === 0) break;
      length += got;
    }
  } catch (error) {
    throw new ReadFailed(error);
  }
  return buffer.subarray(0, length);
}

function writePiece(to: number, piece: Buffer, at: number): void {
  for (let done = 0; done < piece.length; ) {
    done += writeSync(to, piece, done, piece.length - done, at + done);
  }
}

async function readPieceInPool(from: number, buffer: Buffer, at: number): Promise<Buffer> {
  let length = 0;
  try {
    while (length < buffer.length) {
      const left = buffer.length - length;
      const { bytesRead } = await readAt(from, buffer, length, left, at + length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
  } catch (error) {
    throw new ReadFailed(error);
  }
  return buffer.subarray(0, length);
}

async function writePieceInPool(to: number, piece: Buffer, at: number): Promise<void> {
  for (let done = 0; done < piece.length; ) {
    const { bytesWritten } = await writeAt(to, piece, done, piece.length - done, at + done);
    done += bytesWritten;
  }
}

/** A large file on its way. */
interface LargeFile {
  readonly from: number;
  readonly to: number;
  readonly size: number;
  readonly slowMs: number;
}

async function copyLarge(file: LargeFile, sparse: boolean, budget: Budget): Promise<CopiedContent> {
  const { from, to, size } = file;
  using digest = pooledSha256();
  const copier = new PieceCopier(file, digest, budget);
  let at = 0;
  for (const extent of sparse ? extents(from, size) : [{ offset: 0, length: size }]) {
    await hashZeros(digest, extent.offset - at, budget);
    budget.spend('bytes', extent.length);
    const got = await copier.copy(extent);
    at = extent.offset + got;
    // The file was cut short while being read: what is there is all there is.
    if (got < extent.length) {
      if (at > 0) ftruncateSync(to, at);
      return { size: at, sha256: digest.digest() };
    }
  }
  if (at < size) {
    await hashZeros(digest, size - at, budget);
    ftruncateSync(to, size);
  }
  return { size, sha256: digest.digest() };
}

function* extents(from: number, size: number): Generator<Extent> {
  try {
    yield* dataExtents(from, size);
  } catch (error) {
    throw error instanceof SyscallError ? new ReadFailed(error) : error;
  }
}

/** Copies a file's extents piece by piece, and hashes each piece while the next one is copied. */
class PieceCopier {
  readonly #file: LargeFile;
  readonly #digest: PooledSha256;
  readonly #budget: Budget;
  /** One is hashed while the other is filled and written. */
  readonly #buffers: Buffer[] = [];
  #slow = false;

  constructor(file: LargeFile, digest: PooledSha256, budget: Budget) {
    this.#file = file;
    this.#digest = digest;
    this.#budget = budget;
  }

  /** Returns how many bytes there were: fewer than `length` only at the file's end. */
  async copy({ offset, length }: Extent): Promise<number> {
    let copied = 0;
    let hashing = Promise.resolve();
    try {
      for (let turn = 0; copied < length; turn++) {
        const want = Math.min(PIECE, length - copied);
        const piece = await this.#copyPiece(this.#buffer(turn % 2, want), offset + copied);
        await hashing;
        hashing = awaitedLater(this.#digest.update(piece));
        copied += piece.length;
        if (piece.length < want) break;
        if (this.#budget.due) await this.#budget.breathe();
      }
      await hashing;
      return copied;
    } finally {
      // None may outlive this call: it reads memory of ours.
      await hashing.catch(() => undefined);
    }
  }

  async #copyPiece(buffer: Buffer, at: number): Promise<Buffer> {
    const { from, to, slowMs } = this.#file;
    if (this.#slow) {
      const piece = await readPieceInPool(from, buffer, at);
      await writePieceInPool(to, piece, at);
      return piece;
    }
    const began = performance.now();
    const piece = readPiece(from, buffer, at);
    writePiece(to, piece, at);
    this.#slow = performance.now() - began > slowMs;
    return piece;
  }

  /** Memory of `size` bytes; no more of it than the file needs. */
  #buffer(index: number, size: number): Buffer {
    this.#buffers[index] ??= Buffer.allocUnsafeSlow(Math.min(PIECE, this.#file.size));
    return this.#buffers[index].subarray(0, size);
  }
}

async function hashZeros(digest: PooledSha256, length: number, budget: Budget): Promise<void> {
  if (length <= 0) return;
  budget.spend('holes', length);
  zeros ??= Buffer.alloc(PIECE);
  for (let left = length; left > 0; left -= PIECE) {
    await digest.update(left >= PIECE ? zeros : zeros.subarray(0, left));
    if (budget.due) await budget.breathe();
  }
}
