import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type Duplex, PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { createUnxz } from 'node-liblzma';
import { KilnError } from '../errors.ts';
import { awaitedLater } from '../promise.ts';
import { MAX_OPEN_METADATA } from './limits.ts';
import type { Compression, MetadataFile } from './metadata-file.ts';

const CHUNK = 1 << 20;

/** What xz -9 needs to decompress, with room: a header that asks for more is refused. */
const XZ_MEMORY = 128 << 20;

/**
 * The decompressed content of the open file `fd`, checked on the way: what is read is hashed, and
 * the iteration ends with an error if a digest or a size is not what repomd.xml says. Nothing that
 * was yielded may be believed before the end. `fd` is closed. Runs in a confined child.
 * @throws KilnError E_REPOSITORY_METADATA
 */
export async function* readMetadata(fd: number, file: MetadataFile): AsyncGenerator<Buffer> {
  const source = createReadStream('', { fd, highWaterMark: CHUNK });
  const raw = checker(file, 'compressed', file.digest, file.size);
  source.on('data', (chunk) => raw.update(chunk as Buffer));
  const out = decompressor(file.compression);
  const limit = file.openSize ?? MAX_OPEN_METADATA;
  const open = checker(file, 'decompressed', file.openDigest, file.openSize, limit);
  const done = awaitedLater(
    pipeline(source, out).catch((cause: Error) => {
      throw broken(file, cause.message, cause);
    }),
  );
  try {
    for await (const chunk of out as AsyncIterable<Buffer>) {
      open.update(chunk);
      yield chunk;
    }
  } catch (cause) {
    if (cause instanceof KilnError) throw cause;
    raw.finish(false);
    throw broken(file, (cause as Error).message, cause);
  }
  await done;
  raw.finish(true);
  open.finish(true);
}

function checker(
  file: MetadataFile,
  what: string,
  digest: string | undefined,
  size: number | undefined,
  limit = size ?? Number.POSITIVE_INFINITY,
) {
  const [algorithm = 'sha256', expected] = digest?.split(':') ?? [];
  const hash = createHash(algorithm);
  let length = 0;
  return {
    update(chunk: Buffer): void {
      length += chunk.length;
      if (length > limit) throw broken(file, `it is longer than ${limit} bytes ${what}`);
      hash.update(chunk);
    },
    /** `whole`: the end was reached, so the digest can be told. */
    finish(whole: boolean): void {
      if (!whole) return;
      if (size !== undefined && length !== size) {
        throw broken(file, `it has ${length} bytes ${what} instead of ${size}`);
      }
      if (expected !== undefined && hash.digest('hex') !== expected) {
        throw broken(file, `its ${algorithm} (${what}) is not the one in repomd.xml`);
      }
    },
  };
}

function decompressor(compression: Compression): Duplex {
  switch (compression) {
    case 'none':
      return new PassThrough({ highWaterMark: CHUNK });
    case 'gzip':
      return createGunzip({ chunkSize: CHUNK });
    case 'zstd':
      return createZstdDecompress({ chunkSize: CHUNK });
    case 'xz':
      return createUnxz({ memlimit: XZ_MEMORY }) as unknown as Duplex;
  }
}

function broken(file: MetadataFile, why: string, cause?: unknown): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${file.location} is broken: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
  });
}
