/** Copies the content of one open file to another and hashes it on the way. */
import { createHash, type Hash, hash } from 'node:crypto';
import { ftruncateSync, read, readSync, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { SyscallError } from '../kernel/libc.ts';
import { dataExtents, type Extent } from '../kernel/sparse.ts';
import type { Budget } from './budget.ts';

/** Files up to this size are copied in one go, with one-shot hashing. */
const SMALL = 256 * 1024;
/** Above it, in pieces: while one is hashed, others are read and written in the thread pool. */
const PIECE = 512 * 1024;
/** Pieces under way. Measured: 512 KiB times 4 stays in the cache, hashing sets the pace. */
const RING = 4;
/** Pieces of zeros hashed for a hole before others get a turn. */
const ZEROS_PER_TURN = 32;
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
 * @throws ReadFailed; the system error of a write; KilnError E_ARTIFACT_LIMIT
 */
export function copyContent(
  from: number,
  to: number,
  size: number,
  blocks: number,
  budget: Budget,
): CopiedContent | Promise<CopiedContent> {
  budget.spend('apparentBytes', size);
  const sparse = blocks * STAT_BLOCK < size;
  if (size <= SMALL && !sparse) return copySmall(from, to, size, budget);
  return copyLarge(from, to, size, sparse, budget);
}

function copySmall(from: number, to: number, size: number, budget: Budget): CopiedContent {
  budget.spend('bytes', size);
  smallBuffer ??= Buffer.allocUnsafeSlow(SMALL);
  let length = 0;
  while (length < size) {
    const got = readSmall(from, smallBuffer, length, size);
    if (got === 0) break;
    length += got;
  }
  for (let done = 0; done < length; ) {
    done += writeSync(to, smallBuffer, done, length - done, done);
  }
  return { size: length, sha256: hash('sha256', smallBuffer.subarray(0, length), 'hex') };
}

function readSmall(from: number, buffer: Buffer, at: number, end: number): number {
  try {
    return readSync(from, buffer, at, end - at, at);
  } catch (error) {
    throw new ReadFailed(error);
  }
}

async function copyLarge(
  from: number,
  to: number,
  size: number,
  sparse: boolean,
  budget: Budget,
): Promise<CopiedContent> {
  const digest = createHash('sha256');
  let at = 0;
  for (const extent of sparse ? extents(from, size) : [{ offset: 0, length: size }]) {
    await hashZeros(digest, extent.offset - at, budget);
    budget.spend('bytes', extent.length);
    const got = await copyExtent(from, to, extent.offset, extent.length, digest, budget);
    at = extent.offset + got;
    // The file was cut short while being read: what is there is all there is.
    if (got < extent.length) {
      if (at > 0) ftruncateSync(to, at);
      return { size: at, sha256: digest.digest('hex') };
    }
  }
  if (at < size) {
    await hashZeros(digest, size - at, budget);
    ftruncateSync(to, size);
  }
  return { size, sha256: digest.digest('hex') };
}

function* extents(from: number, size: number): Generator<Extent> {
  try {
    yield* dataExtents(from, size);
  } catch (error) {
    throw error instanceof SyscallError ? new ReadFailed(error) : error;
  }
}

/** A buffer on its round: being filled, hashed, written. */
interface Slot {
  readonly buffer: Buffer;
  reading: Promise<number>;
  writing: Promise<void>;
}

/** Returns how many bytes there were: fewer than `length` only at the file's end. */
async function copyExtent(
  from: number,
  to: number,
  offset: number,
  length: number,
  digest: Hash,
  budget: Budget,
): Promise<number> {
  const pieces = Math.ceil(length / PIECE);
  const slots: Slot[] = Array.from({ length: Math.min(RING, pieces) }, () => ({
    buffer: Buffer.allocUnsafeSlow(Math.min(PIECE, length)),
    reading: Promise.resolve(0),
    writing: Promise.resolve(),
  }));
  const startOf = (piece: number) => offset + piece * PIECE;
  const fill = (piece: number) => {
    const { buffer } = slots[piece % slots.length]!;
    const want = Math.min(PIECE, length - piece * PIECE);
    slots[piece % slots.length]!.reading = handled(readAll(from, buffer, want, startOf(piece)));
  };
  let copied = 0;
  try {
    for (let piece = 0; piece < slots.length; piece += 1) fill(piece);
    for (let piece = 0; piece < pieces; piece += 1) {
      const slot = slots[piece % slots.length]!;
      const got = await slot.reading;
      const content = slot.buffer.subarray(0, got);
      slot.writing = handled(writeAll(to, content, startOf(piece)));
      digest.update(content);
      copied += got;
      if (copied < Math.min(length, (piece + 1) * PIECE)) break;
      if (budget.due) await budget.breathe();
      // The slot before this one: its write had the whole of the hashing above to finish.
      const previous = slots[(piece + slots.length - 1) % slots.length]!;
      await previous.writing;
      const next = piece + slots.length - 1;
      if (piece > 0 && next < pieces) fill(next);
    }
    await Promise.all(slots.map((slot) => slot.writing));
    return copied;
  } finally {
    // None may outlive this call: the descriptors will be closed and their numbers used again.
    await Promise.allSettled(slots.flatMap((slot) => [slot.reading, slot.writing]));
  }
}

/** Marks a promise as looked after: its rejection is seen when it is awaited, later. */
function handled<Value>(promise: Promise<Value>): Promise<Value> {
  promise.catch(() => undefined);
  return promise;
}

/** Fills `want` bytes of `buffer`, or less at the end of the file; returns how many. */
async function readAll(from: number, buffer: Buffer, want: number, at: number): Promise<number> {
  let length = 0;
  try {
    while (length < want) {
      const { bytesRead } = await readAt(from, buffer, length, want - length, at + length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
  } catch (error) {
    throw new ReadFailed(error);
  }
  return length;
}

async function writeAll(to: number, piece: Buffer, position: number): Promise<void> {
  for (let done = 0; done < piece.length; ) {
    const { bytesWritten } = await writeAt(to, piece, done, piece.length - done, position + done);
    done += bytesWritten;
  }
}

async function hashZeros(digest: Hash, length: number, budget: Budget): Promise<void> {
  if (length <= 0) return;
  zeros ??= Buffer.alloc(PIECE);
  for (let left = length, pieces = 1; left > 0; left -= PIECE, pieces += 1) {
    digest.update(left >= PIECE ? zeros : zeros.subarray(0, left));
    if (pieces % ZEROS_PER_TURN === 0) await budget.breathe();
  }
}
