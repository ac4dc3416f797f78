import { createHash, type Hash, hash } from 'node:crypto';
import { ftruncateSync, read, write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { dataExtents, type Extent } from '../host/calls/descriptor.ts';
import { SyscallError } from '../host/calls/libc.ts';
import { readInto } from '../host/files/content.ts';
import { awaitedLater } from '../promise.ts';
import type { Budget } from './budget.ts';
import type { WithRights } from './destination.ts';

/** Files up to this size are copied in one go, with one-shot hashing. */
const SMALL = 256 * 1024;
/** Above it, in pieces: each is hashed here while the thread pool writes it and reads the next one. */
const PIECE = 4 * 1024 * 1024;
/** st_blocks counts these, whatever the file system's own block size. */
const STAT_BLOCK = 512;

const readAt = promisify(read);
const writeAt = promisify(write);

export interface CopiedContent {
  /** Bytes that were read, holes included; less than asked for if the file shrank. */
  readonly size: number;
  readonly sha256: string;
}

export class ReadFailed extends Error {
  constructor(cause: unknown) {
    super('the source could not be read', { cause });
    this.name = 'ReadFailed';
  }
}

let smallBuffer: Buffer | undefined;
let zeros: Buffer | undefined;

/** Whether a file has holes: `blocks` is its `st_blocks`. */
export function isSparse(size: number, blocks: number | bigint): boolean {
  return Number(blocks) * STAT_BLOCK < size;
}

/**
 * Copies the first `size` bytes of `from` into the empty file `to`; holes stay holes.
 * @param blocks `st_blocks` of the source: fewer than `size` needs means there are holes
 * @param writing what writes as somebody else than this process: whose blocks a file takes is decided then
 * @throws ReadFailed; the system error of a write; KilnError E_ARTIFACT_LIMIT
 */
export function copyContent(
  from: number,
  to: number,
  size: number,
  blocks: number,
  budget: Budget,
  writing?: WithRights,
): CopiedContent | Promise<CopiedContent> {
  const sparse = isSparse(size, blocks);
  const files = { from, to, budget, writing };
  return size <= SMALL && !sparse ? copySmall(files, size) : copyLarge(files, size, sparse);
}

function copySmall({ from, to, budget, writing }: Files, size: number): CopiedContent {
  budget.spend('bytes', size);
  smallBuffer ??= Buffer.allocUnsafeSlow(SMALL);
  let content: Buffer;
  try {
    content = readInto(smallBuffer.subarray(0, size), from, 0);
  } catch (error) {
    throw new ReadFailed(error);
  }
  if (writing === undefined) writeNow(to, content, 0);
  else writing(() => writeNow(to, content, 0));
  return { size: content.length, sha256: hash('sha256', content, 'hex') };
}

async function copyLarge(files: Files, size: number, sparse: boolean): Promise<CopiedContent> {
  const { from, to, budget } = files;
  const digest = createHash('sha256');
  const copying = { ...files, digest, buffers: [] };
  let at = 0;
  for (const extent of sparse ? extents(from, size) : [{ offset: 0, length: size }]) {
    await hashZeros(digest, extent.offset - at, budget);
    budget.spend('bytes', extent.length);
    const got = await copyExtent(copying, extent);
    at = extent.offset + got;
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

interface Files {
  readonly from: number;
  readonly to: number;
  readonly budget: Budget;
  readonly writing: WithRights | undefined;
}

interface Copying extends Files {
  readonly digest: Hash;
  readonly buffers: Buffer[];
}

async function copyExtent(copying: Copying, { offset, length }: Extent): Promise<number> {
  const { from, digest, budget, buffers } = copying;
  const read = (turn: number, done: number) => {
    buffers[turn % 2] ??= Buffer.allocUnsafeSlow(PIECE);
    return readPiece(from, buffers[turn % 2]!.subarray(0, length - done), offset + done);
  };
  let copied = 0;
  let reading = awaitedLater(read(0, 0));
  let writing = Promise.resolve();
  try {
    for (let turn = 0; ; turn++) {
      const piece = await reading;
      const at = offset + copied;
      copied += piece.length;
      const isLast = piece.length < PIECE || copied === length;
      if (!isLast) reading = awaitedLater(read(turn + 1, copied));
      writing = awaitedLater(writePiece(copying, piece, at));
      digest.update(piece);
      await writing;
      if (isLast) return copied;
      if (budget.due) await budget.breathe();
    }
  } finally {
    // Neither may outlive this call: the files are the caller's.
    await Promise.allSettled([reading, writing]);
  }
}

async function writePiece({ to, writing }: Files, piece: Buffer, at: number): Promise<void> {
  // The threads of Node's pool have the rights of the process.
  if (writing !== undefined) return writing(() => writeNow(to, piece, at));
  for (let done = 0; done < piece.length; ) {
    done += (await writeAt(to, piece, done, piece.length - done, at + done)).bytesWritten;
  }
}

function writeNow(to: number, piece: Buffer, at: number): void {
  for (let done = 0; done < piece.length; )
    done += writeSync(to, piece, done, piece.length - done, at + done);
}

async function readPiece(from: number, buffer: Buffer, at: number): Promise<Buffer> {
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

async function hashZeros(digest: Hash, length: number, budget: Budget): Promise<void> {
  if (length <= 0) return;
  budget.spend('holes', length);
  zeros ??= Buffer.alloc(PIECE);
  for (let left = length; left > 0; left -= PIECE) {
    digest.update(left >= PIECE ? zeros : zeros.subarray(0, left));
    if (budget.due) await budget.breathe();
  }
}
