/** Reading the compressed payload in large pieces, always the same memory. */
import { readSync } from 'node:fs';

const CHUNK = 1024 * 1024;

let memory: Buffer | undefined;

/**
 * Calls `use` with each piece of the file from `start` to its end. The piece is valid only during
 * the call.
 */
export function eachChunk(fd: number, start: number, use: (piece: Buffer) => void): void {
  memory ??= Buffer.allocUnsafeSlow(CHUNK);
  const chunk = memory;
  for (let at = start; ; ) {
    const count = readSync(fd, chunk, 0, CHUNK, at);
    if (count === 0) return;
    use(chunk.subarray(0, count));
    at += count;
  }
}
