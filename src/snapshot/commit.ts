import { openSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Engine } from '../engine.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { currentAction } from '../events/action.ts';
import { closing } from '../host/calls/descriptor.ts';
import { sizeInWords } from '../host/calls/system-error.ts';
import { CONFINED_IDS } from '../host/confine/launch.ts';
import { askConfined } from '../host/confine/run.ts';
import { DEEP } from '../host/confine/task.ts';
import { beginStage } from '../host/process/work.ts';
import { DEFAULT_DISK, DiskWatch, refuseLowDisk } from '../host/state/disk-watch.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { type ImportedImage, importImage, refuseRecipesName } from '../image/archive/import.ts';
import { refuseHostImage } from '../image/host.ts';
import { readManifest } from '../image/store/manifest.ts';
import { listSnapshots, type Snapshot, UNSETTLED } from '../image/store/snapshots.ts';
import { storageLeft } from '../image/store/user-storage.ts';
import { openWorkDirectory } from '../image/store/work-directory.ts';
import { MOST_NAMES } from './copy.ts';
import { mappedMount } from './folder.ts';
import { MOST_SKIPPED, type PackInput } from './pack-task.ts';
import { allSettled } from './settle.ts';
import { type LeasedStack, leaseFrom } from './stack.ts';

export interface CommittedImage extends ImportedImage {
  /** Paths that no image can have. */
  readonly skipped: readonly string[];
}

const MOST: PackInput = { maxBytes: 2 * DEFAULT_DISK, maxEntries: 2 * MOST_NAMES };

const outputSchema = z.strictObject({
  skipped: z
    .string()
    .max(1 << 14)
    .array()
    .max(MOST_SKIPPED),
});

/**
 * Makes an image of a snapshot's stack. A confined child packs what the layers show, another one unpacks that, as it
 * does with any archive. Equal files and settings are the same image.
 * @throws KilnError E_SNAPSHOT, E_NO_SNAPSHOT, E_IMAGE_HOST, E_ARGUMENT, E_DISK, E_DISK_LOW, E_TREE_DEPTH
 */
export async function commitSnapshot(
  { paths, owner }: Engine,
  { id }: Snapshot,
  name: string,
  signal?: AbortSignal,
): Promise<CommittedImage> {
  await using stack = await leaseFrom({ paths, owner }, id);
  const { manifest, layers } = stack;
  requireCommit(paths, manifest.id, name);
  const all = await listSnapshots(paths, undefined);
  const below = layers.flatMap((layer) => all.find((each) => each.id === layer.id) ?? []);
  const digests = (await allSettled(paths, below, signal)).map(({ record }) => record.digest);
  if (digests.includes(UNSETTLED)) throw tooMuchError();
  await using work = await openWorkDirectory(paths);
  // The archive, and then the image.
  refuseLowDisk(work.path, 2 * manifest.bytes);
  const archive = join(work.path, 'image.tar');
  const skipped = await packStack(stack, archive, signal);
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
  currentAction()?.found({ image: image.manifest.id });
  return { ...image, skipped };
}

/**
 * What can be told before anything is read.
 * @param below the image that the sandbox or snapshot stands on
 * @throws KilnError E_ARGUMENT
 */
export function requireCommit(paths: StatePaths, below: string | undefined, name: string): void {
  refuseRecipesName(paths, name);
  const manifest = below === undefined ? undefined : readManifest(paths, below);
  if (manifest !== undefined) refuseHostImage(manifest, 'commits');
}

async function packStack(
  { layers, tree }: LeasedStack,
  archive: string,
  signal: AbortSignal | undefined,
): Promise<readonly string[]> {
  using opened = new DisposableStack();
  const trees = [...layers.map((layer) => layer.tree).reverse(), tree];
  const mounts = trees.map((each) => opened.use(closing(mappedMount(each, CONFINED_IDS))).fd);
  using file = closing(openSync(archive, 'wx', 0o600));
  using watch = new DiskWatch(archive);
  beginStage('packing files');
  try {
    const { skipped } = await askConfined({
      ...{ task: 'snapshot-pack', input: MOST, fds: [file.fd, ...mounts] },
      limits: { files: DEEP },
      signal: AbortSignal.any([watch.signal, ...(signal === undefined ? [] : [signal])]),
      validate: (value) => outputSchema.parse(value),
    });
    return skipped;
  } catch (cause) {
    if (!isKilnCode(cause, 'E_ARTIFACT_LIMIT')) throw cause;
    throw tooMuchError(cause);
  }
}

function tooMuchError(cause?: unknown): KilnError {
  const most = `${sizeInWords(MOST.maxBytes)} and ${MOST.maxEntries} names`;
  return new KilnError('E_SNAPSHOT', `that is more than an image takes: ${most}`, {
    hint: 'remove files in the sandbox that the image need not have; holes of sparse files count',
    cause,
  });
}
