/** The payload's bytes, decompressed, in pieces of up to 1 MiB. */
import { readSync } from 'node:fs';
import { type Duplex, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { rpmError } from '../errors.ts';
import type { RpmPayload } from '../package.ts';
import { decodeNative } from './native-codec.ts';
import { decodeZstd } from './zstd.ts';

/** Larger than Node's default of 16 KiB, by far: that takes half as long again. */
const PIECE = 1024 * 1024;
const READ = 256 * 1024;

/**
 * Yields the archive. A piece is valid until the next one is asked for. Stopping early is fine.
 * @throws KilnError E_RPM_FORMAT when the compressed data is damaged or cut off.
 */
export async function* decompressPayload(
  fd: number,
  { compressor, start }: Pick<RpmPayload, 'compressor' | 'start'>,
): AsyncGenerator<Buffer, void, undefined> {
  switch (compressor) {
    case 'none':
      yield* compressedPieces(fd, start);
      break;
    case 'gzip':
      // A decoder's thread reads a piece later than it is given: each has memory of its own.
      yield* through(
        compressedPieces(fd, start, () => Buffer.allocUnsafe(READ)),
        createGunzip({ chunkSize: PIECE }),
      );
      break;
    case 'zstd':
      yield* decodeZstd(compressedPieces(fd, start));
      break;
    default:
      yield* decodeNative(compressor, compressedPieces(fd, start));
  }
}

let memory: Buffer | undefined;

/** Always the same: new memory for every piece keeps V8 busy with freeing it. */
function sameMemory(): Buffer {
  memory ??= Buffer.allocUnsafeSlow(READ);
  return memory;
}

/** The file from `start` on, in pieces that are valid until the next one is asked for. */
function* compressedPieces(fd: number, start: number, memoryOf = sameMemory): Generator<Buffer> {
  for (let at = start; ; ) {
    const piece = memoryOf();
    const count = readSync(fd, piece, 0, READ, at);
    if (count === 0) return;
    yield piece.subarray(0, count);
    at += count;
  }
}

async function* through(pieces: Iterable<Buffer>, decoder: Duplex): AsyncGenerator<Buffer> {
  const input = Readable.from(pieces, { highWaterMark: 2 });
  input.on('error', (error) => decoder.destroy(error));
  input.pipe(decoder);
  try {
    yield* decoder;
  } catch (cause) {
    throw rpmError('E_RPM_FORMAT', 'its payload is damaged: it cannot be decompressed', { cause });
  } finally {
    input.destroy();
    decoder.destroy();
  }
}
