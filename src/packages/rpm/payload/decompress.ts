import { type Duplex, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { filePieces } from '../../../host/files/content.ts';
import { decodeZstd, type ZstdErrors } from '../../../host/files/zstd.ts';
import { type RpmPayload, rpmError } from '../package.ts';
import { decodeNative } from './native-codec.ts';

const ZSTD: ZstdErrors = {
  damaged,
  missing: () =>
    rpmError('E_RPM_UNSUPPORTED', 'its payload is zstd, but libzstd is missing', {
      hint: 'install libzstd',
    }),
};

function damaged(cause?: unknown) {
  return rpmError('E_RPM_FORMAT', 'its payload is damaged: it cannot be decompressed', { cause });
}

/** With Node's default of 16 KiB it takes half as long again. */
const PIECE = 1024 * 1024;
const READ = 256 * 1024;

export async function* decompressPayload(
  fd: number,
  { compressor, start }: RpmPayload,
): AsyncGenerator<Buffer, void, undefined> {
  // A decoder's thread reads a piece later than it is given: each has memory of its own.
  const ownMemory = () => Buffer.allocUnsafe(READ);
  if (compressor === 'none') yield* filePieces(fd, start);
  else if (compressor === 'zstd') yield* decodeZstd(filePieces(fd, start), ZSTD);
  else if (compressor !== 'gzip') yield* decodeNative(compressor, filePieces(fd, start));
  else yield* through(filePieces(fd, start, ownMemory), createGunzip({ chunkSize: PIECE }));
}

async function* through(pieces: Iterable<Buffer>, decoder: Duplex): AsyncGenerator<Buffer> {
  const input = Readable.from(pieces, { highWaterMark: 2 });
  input.on('error', (error) => decoder.destroy(error));
  input.pipe(decoder);
  try {
    yield* decoder;
  } catch (cause) {
    throw damaged(cause);
  } finally {
    input.destroy();
    decoder.destroy();
  }
}
