/** Reading the compressed payload in large pieces, always the same memory. */
import { readSync } from 'node:fs';

const CHUNK = 1024 * 1024;

/**
 * Calls `use` with each piece of the file from `start` to its end. The piece is valid only during
 * the call.
 */
export function eachChunk(fd: number, start: number, use: (piece: Buffer) => void): void {
  const chunk = Buffer.allocUnsafe(CHUNK);
  for (let at = start; ; ) {
    const count = readSync(fd, chunk, 0, CHUNK, at);
    if (count === 0) return;
    use(chunk.subarray(0, count));
    at += count;
  }
}
