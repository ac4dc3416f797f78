import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { defined } from '../defined.ts';
import type { Engine } from '../engine.ts';
import { closing } from '../host/calls/descriptor.ts';
import { refuseLowDisk } from '../host/state/disk-watch.ts';
import { type ImportedImage, importImage } from '../image/archive/import.ts';
import { packTree } from '../image/archive/pack-tree.ts';
import { refuseHostImage } from '../image/host.ts';
import { listSnapshots, type Snapshot } from '../image/store/snapshots.ts';
import { storageLeft } from '../image/store/user-storage.ts';
import { openWorkDirectory } from '../image/store/work-directory.ts';
import { allSettled } from './settle.ts';
import { leaseFrom } from './stack.ts';
import { openStack } from './view.ts';

export interface CommittedImage extends ImportedImage {
  /** Paths that no image can have. */
  readonly skipped: readonly string[];
}

/**
 * Makes an image of a snapshot's stack. The kernel merges the layers in an overlay that nobody else sees; a confined
 * child unpacks what comes of that, as it does with any archive. Equal files and settings are the same image.
 * @throws KilnError E_SNAPSHOT, E_NO_SNAPSHOT, E_IMAGE_HOST, E_ARGUMENT, E_DISK, E_DISK_LOW
 */
export async function commitSnapshot(
  { paths, owner }: Engine,
  { id }: Snapshot,
  name: string,
  signal?: AbortSignal,
): Promise<CommittedImage> {
  await using stack = await leaseFrom({ paths, owner }, id);
  const { manifest, layers } = stack;
  refuseHostImage(manifest, 'commits');
  const all = await listSnapshots(paths, undefined);
  const below = layers.flatMap((layer) => all.find((each) => each.id === layer.id) ?? []);
  const digests = (await allSettled(paths, below, signal)).map(({ record }) => record.digest);
  await using work = await openWorkDirectory(paths);
  // The archive, and then the image.
  refuseLowDisk(work.path, 2 * manifest.bytes);
  const archive = join(work.path, 'image.tar');
  using view = closing(openStack(stack, layers));
  const { stream, skipped } = await packTree(`/proc/self/fd/${view.fd}/.`, {
    ...{ users: new Map(), groups: new Map() },
  });
  await pipeline([stream, createWriteStream(archive, { mode: 0o600 })], defined({ signal }));
  const { user, environment, workdir, description } = manifest;
  const image = await importImage(paths, archive, {
    ...{ name, arch: manifest.arch, from: `snapshot ${id}`, uid: owner?.uid },
    ...(owner === undefined ? {} : { maxBytes: await storageLeft(paths, owner) }),
    madeOf: { image: manifest.id, layers: digests },
    config: {
      User: `${user.uid}:${user.gid}`,
      Env: Object.entries(environment).map(([key, value]) => `${key}=${value}`),
      WorkingDir: workdir,
      Labels: { 'org.opencontainers.image.description': description },
    },
    signal,
  });
  return { ...image, skipped };
}
