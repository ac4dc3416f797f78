import { createHash, type Hash, hash } from 'node:crypto';
import { constants, createWriteStream } from 'node:fs';
import { type FileHandle, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Readable, Transform, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { AT_FDCWD, openDirectory } from '../../host/files/at.ts';
import { isStill, tryLockDescriptor } from '../../host/files/flock.ts';
import { Folder } from '../../host/files/folder.ts';
import type { HeldPath } from '../../host/files/held.ts';
import type { LeasedImage } from '../store/images.ts';
import type { ImageManifest } from '../store/manifest.ts';
import { readGroups } from '../tree/accounts.ts';
import { MediaType, ociStart, toOciArchitecture } from './oci.ts';
import { type OwnerNames, packTree } from './pack-tree.ts';

export type Compression = 'none' | 'gzip' | 'zstd';

const CHUNK = 1024 * 1024;
/** zlib's levels above this one gain a few percent and take twice the time. */
const GZIP_LEVEL = 4;

export async function exportTar(
  image: LeasedImage,
  to: Writable,
  compression: Compression,
): Promise<readonly string[]> {
  const { stream, skipped } = await packTree(image.tree, ownerNames(image));
  await pipeline([stream, ...compressors(compression), to]);
  return skipped;
}

/**
 * An OCI layout with one layer, in the empty folder `directory`; skopeo, podman and buildah read it as
 * `oci:DIRECTORY`.
 * @returns paths that no archive can hold
 * @throws KilnError E_EXPORT when the folder is not empty
 */
export async function exportOci(
  image: LeasedImage,
  directory: HeldPath,
  compression: Compression,
): Promise<readonly string[]> {
  using top = Folder.open(directory);
  if (top.names().length > 0) {
    throw new KilnError('E_EXPORT', `${directory} is not empty`, {
      hint: 'name a folder that does not exist yet',
    });
  }
  using above = top.inner('blobs');
  using inner = above.inner('sha256');
  const blobs = inner.path;
  const { stream, skipped } = await packTree(image.tree, ownerNames(image));
  const layer = await writeLayer(blobs, stream, compression);
  const config = await writeJson(blobs, MediaType.config, ociConfig(image.manifest, layer.diffId));
  const manifest = await writeJson(blobs, MediaType.manifest, {
    schemaVersion: 2,
    mediaType: MediaType.manifest,
    config,
    layers: [layer.descriptor],
  });
  const index = {
    schemaVersion: 2,
    mediaType: MediaType.index,
    manifests: [
      {
        ...manifest,
        platform: { architecture: toOciArchitecture(image.manifest.arch), os: 'linux' },
        annotations: { 'org.opencontainers.image.ref.name': 'latest' },
      },
    ],
  };
  await writeFile(join(top.path, 'index.json'), JSON.stringify(index), { flag: 'wx' });
  // This file makes the folder a layout: an unfinished one is none.
  const version = '{"imageLayoutVersion":"1.0.0"}';
  await writeFile(join(top.path, 'oci-layout'), version, { flag: 'wx' });
  return skipped;
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

async function writeLayer(
  blobs: string,
  stream: Readable,
  compression: Compression,
): Promise<{ readonly descriptor: Descriptor; readonly diffId: string }> {
  const plain = createHash('sha256');
  const packed = createHash('sha256');
  const temporary = join(blobs, 'layer');
  try {
    await pipeline([
      stream,
      hashing(plain),
      ...compressors(compression),
      hashing(packed),
      createWriteStream(temporary, { flags: 'wx', highWaterMark: CHUNK }),
    ]);
    const { size } = await stat(temporary);
    const digest = packed.digest('hex');
    await rename(temporary, join(blobs, digest));
    const suffix = compression === 'none' ? '' : `+${compression}`;
    const descriptor = {
      mediaType: `${MediaType.layer}${suffix}`,
      digest: `sha256:${digest}`,
      size,
    };
    return { descriptor, diffId: `sha256:${plain.digest('hex')}` };
  } finally {
    await rm(temporary, { force: true });
  }
}

async function writeJson(blobs: string, mediaType: string, value: unknown): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(value));
  const digest = hash('sha256', bytes, 'hex');
  await writeFile(join(blobs, digest), bytes, { flag: 'wx' });
  return { mediaType, digest: `sha256:${digest}`, size: bytes.length };
}

function ociConfig(manifest: ImageManifest, diffId: string): unknown {
  const created = new Date(manifest.epoch * 1000).toISOString();
  return {
    created,
    architecture: toOciArchitecture(manifest.arch),
    os: 'linux',
    config: {
      User: manifest.user.name,
      Env: Object.entries(manifest.environment).map(([name, value]) => `${name}=${value}`),
      WorkingDir: manifest.workdir,
      ...ociStart(manifest),
      Labels: {
        'org.opencontainers.image.title': manifest.name,
        'org.opencontainers.image.description': manifest.description,
      },
    },
    rootfs: { type: 'layers', diff_ids: [diffId] },
    history: [{ created, created_by: `kiln image ${manifest.id.slice(0, 12)}` }],
  };
}

export function compressors(compression: Compression): Transform[] {
  if (compression === 'gzip') return [createGzip({ chunkSize: CHUNK, level: GZIP_LEVEL })];
  return compression === 'zstd' ? [createZstdCompress({ chunkSize: CHUNK })] : [];
}

function hashing(hash: Hash): Transform {
  return new Transform({
    highWaterMark: CHUNK,
    transform(piece: Buffer, _encoding, done) {
      hash.update(piece);
      done(null, piece);
    },
  });
}

function ownerNames(image: LeasedImage): OwnerNames {
  using root = closing(openDirectory(AT_FDCWD, image.tree));
  return {
    users: new Map(image.manifest.accounts.map(({ uid, name }) => [uid, name])),
    groups: new Map(readGroups(root.fd).map(({ gid, name }) => [gid, name])),
  };
}

/** Made anew, so that nothing is written into what another put there, or into what a link leads to. */
const NEW = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
const FOUND = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * Lets `write` write a file that appears as a whole: it is called `OUTPUT.part` until then, and locked, so that a
 * second writer takes its name from nobody. What a killed one left is written anew.
 * @param mode of the file, as open(2) takes it
 * @throws KilnError E_EXPORT when it cannot be written, or another process writes it; those of `write`
 */
export async function writeWhole<Result>(
  output: HeldPath,
  mode: number,
  write: (file: Writable) => Promise<Result>,
): Promise<Result> {
  const temporary = `${output}.part`;
  try {
    await using file = await openPart(temporary, mode);
    // By a descriptor of its own, which it closes: the lock goes with the other one, after the rename.
    const stream = createWriteStream(`/proc/self/fd/${file.fd}`, { flags: 'r+' });
    try {
      const result = await write(stream);
      await rename(temporary, output);
      return result;
    } catch (error) {
      stream.destroy();
      await rm(temporary, { force: true });
      throw error;
    }
  } catch (cause) {
    if (cause instanceof KilnError) throw cause;
    throw new KilnError('E_EXPORT', `cannot write ${output}`, {
      cause,
      hint: 'name a file in a folder that exists and can be written',
    });
  }
}

async function openPart(path: string, mode: number): Promise<FileHandle> {
  await removeAbandoned(path);
  const file = await open(path, NEW, mode).catch((error) => {
    throw hasErrno(error, 'EEXIST') ? beingWrittenError(path) : error;
  });
  // One that came in between may have taken it for abandoned.
  if (tryLockDescriptor(file.fd) && isStill(file.fd, path)) return file;
  await file.close();
  throw beingWrittenError(path);
}

/** Removes what nobody writes any more; a link is nobody's. */
async function removeAbandoned(path: string): Promise<void> {
  try {
    await using file = await open(path, FOUND);
    if (!tryLockDescriptor(file.fd) || !isStill(file.fd, path)) throw beingWrittenError(path);
    await rm(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return;
    if (!hasErrno(error, 'ELOOP')) throw error;
    await rm(path, { force: true });
  }
}

function beingWrittenError(path: string): KilnError {
  return new KilnError('E_EXPORT', `${path} is being written by another process`, {
    hint: 'wait for its end, or name another file',
  });
}
