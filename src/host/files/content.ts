/** What is in an open file. */
import { createHash } from 'node:crypto';
import { readSync } from 'node:fs';

let memory: Buffer | undefined;

/** Always the same: new memory for every piece keeps V8 busy with freeing it. */
function sameMemory(): Buffer {
  memory ??= Buffer.allocUnsafeSlow(512 * 1024);
  return memory;
}

/** The file from `start` on, in pieces that are valid until the next one is asked for. */
export function* filePieces(
  fd: number,
  start: number,
  memoryOf: () => Buffer = sameMemory,
): Generator<Buffer, void, undefined> {
  for (let at = start; ; ) {
    const piece = memoryOf();
    const count = readSync(fd, piece, 0, piece.length, at);
    if (count === 0) return;
    yield piece.subarray(0, count);
    at += count;
  }
}

/** Of the whole file, hexadecimal. */
export function contentDigest(fd: number, algorithm = 'sha256'): string {
  const hash = createHash(algorithm);
  for (const piece of filePieces(fd, 0)) hash.update(piece);
  return hash.digest('hex');
}

/** Reads into `bytes` what the file has from `start` on. @returns the part of them that it had */
export function readInto(bytes: Buffer, fd: number, start: number): Buffer {
  let length = 0;
  for (let count = -1; count !== 0 && length < bytes.length; length += count) {
    count = readSync(fd, bytes, length, bytes.length - length, start + length);
  }
  return bytes.subarray(0, length);
}
