import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { KilnError } from '../../../errors.ts';
import { decodeNative } from '../../rpm/payload/native-codec.ts';
import type { MetadataFile } from './read-index.ts';
import { type Compression, MAX_METADATA, MAX_OPEN_METADATA, metadataError } from './repomd.ts';

const CHUNK = 1 << 20;

/**
 * The decompressed content of the open file `fd`, which it closes. The iteration ends with an error if a digest or a
 * size differs from repomd.xml: do not use the content before the end. Runs in a confined child.
 * @throws KilnError E_REPOSITORY_METADATA
 */
export async function* readMetadata(fd: number, file: MetadataFile): AsyncGenerator<Buffer> {
  const source = createReadStream('', { fd, highWaterMark: CHUNK });
  const raw = checker(file, 'compressed', file.digest, file.size, file.size ?? MAX_METADATA);
  const limit = file.openSize ?? MAX_OPEN_METADATA;
  const open = checker(file, 'decompressed', file.openDigest, file.openSize, limit);
  try {
    for await (const chunk of decompressed(checked(source, raw), file.compression)) {
      open.update(chunk);
      yield chunk;
    }
  } catch (cause) {
    if (cause instanceof KilnError && cause.code !== 'E_RPM_FORMAT') throw cause;
    throw metadataError(file.location, (cause as Error).message, cause);
  } finally {
    source.destroy();
  }
  raw.finish();
  open.finish();
}

async function* checked(source: AsyncIterable<Buffer>, by: Checker): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    by.update(chunk);
    yield chunk;
  }
}

type Checker = ReturnType<typeof checker>;

function checker(
  file: MetadataFile,
  what: string,
  digest: string | undefined,
  size: number | undefined,
  limit: number,
) {
  const [algorithm = 'sha256', expected] = digest?.split(':') ?? [];
  const hash = createHash(algorithm);
  let length = 0;
  return {
    update(chunk: Buffer): void {
      length += chunk.length;
      if (length > limit)
        throw metadataError(file.location, `it is longer than ${limit} bytes ${what}`);
      hash.update(chunk);
    },
    finish(): void {
      if (size !== undefined && length !== size) {
        throw metadataError(file.location, `it has ${length} bytes ${what} instead of ${size}`);
      }
      if (expected !== undefined && hash.digest('hex') !== expected) {
        throw metadataError(
          file.location,
          `its ${algorithm} (${what}) is not the one in repomd.xml`,
        );
      }
    },
  };
}

/** A piece is valid until the next one is requested. */
function decompressed(
  source: AsyncIterable<Buffer>,
  compression: Compression,
): AsyncIterable<Buffer> {
  if (compression === 'none') return source;
  if (compression === 'gzip') return through(source, createGunzip({ chunkSize: CHUNK }));
  if (compression === 'zstd') return through(source, createZstdDecompress({ chunkSize: CHUNK }));
  return decodeNative(compression, source);
}

function through(source: AsyncIterable<Buffer>, decoder: Transform): AsyncIterable<Buffer> {
  // An error of the source destroys the decoder, so the reader gets it.
  return pipeline(source, decoder, () => undefined);
}
