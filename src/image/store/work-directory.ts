import { randomBytes } from 'node:crypto';
import { lstatSync, mkdirSync, renameSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isKilnCode, type KilnError } from '../../errors.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { acquireLock, tryLock, withLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { findRecord, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';

/**
 * Moves a tree away at once; it is deleted later. (On ext4, making many inodes soon after deleting many takes
 * seconds.) @returns the new path; undefined if there was nothing
 */
export async function discard(paths: StatePaths, path: string): Promise<string | undefined> {
  // Called for each package of an image: a turn through Node's thread pool takes longer than this call.
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
  mkdirSync(paths.trash, { recursive: true, mode: 0o700 });
  return unlessErrno(['ENOENT'], () => {
    const trashed = join(paths.trash, randomBytes(8).toString('hex'));
    renameSync(path, trashed);
    return trashed;
  });
}

/** Returns how many. Several calls may run at once. `onFailure` is called for each tree that cannot be deleted. */
export async function emptyTrash(
  paths: StatePaths,
  onFailure?: (error: KilnError) => void,
): Promise<number> {
  let deleted = 0;
  for (const name of await readdir(paths.trash).catch(() => [])) {
    try {
      await removeTree(join(paths.trash, name));
      deleted++;
    } catch (error) {
      if (!isKilnCode(error, 'E_REMOVE')) throw error;
      onFailure?.(error);
    }
  }
  return deleted;
}

const NEEDED = 'needed.json';

interface WorkDirectory extends AsyncDisposable {
  readonly path: string;
}

/** A lock file may be missing at any time. */
export function lockFile(paths: StatePaths, name: string): string {
  return join(paths.store, 'locks', name);
}

/** Each caller has a lock of its own for what takes long: nobody waits for another caller's servers and packages. */
export function callersLock(paths: StatePaths, name: string, uid: number | undefined): string {
  return lockFile(paths, `${name}-${uid ?? 0}`);
}

/** Held for a moment, while an image or a package is given its name: another caller may have made the same one. */
export function publishLock(paths: StatePaths): string {
  return lockFile(paths, 'publish');
}

/** Exclusive while packages are removed; shared, for a moment, while makers of images note which they need. */
export function packagesLock(paths: StatePaths): string {
  return lockFile(paths, 'packages');
}

/** Closed to all but root. Synchronous, because turns through Node's thread pool take far longer. */
export function ensureStore(paths: StatePaths): void {
  mkdirSync(paths.root, { recursive: true, mode: 0o711 });
  const { packages, images, snapshots, written, trash } = paths;
  const inner = [packages, images, snapshots, written, trash, workRoot(paths)];
  for (const path of [paths.store, ...inner, join(paths.store, 'locks')]) {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  }
}

/** Disposing removes what was not renamed out of it; after a crash {@link sweepWorkDirectories} does. */
export async function openWorkDirectory(paths: StatePaths): Promise<WorkDirectory> {
  ensureStore(paths);
  const id = randomBytes(8).toString('hex');
  // Lock first, so that no sweep sees the folder without its lock.
  const lockPath = lockFile(paths, `work-${id}`);
  const lock = await acquireLock(lockPath);
  const path = join(workRoot(paths), id);
  mkdirSync(path, { mode: 0o700 });
  return {
    path,
    async [Symbol.asyncDispose]() {
      await discard(paths, path);
      await rm(lockPath, { force: true });
      await lock.release();
    },
  };
}

/** Keeps packages from being removed until the work directory is gone: no image needs them yet, which would keep them. */
export async function noteNeeded(
  paths: StatePaths,
  { path }: WorkDirectory,
  needed: readonly string[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const note = () => writeRecord(join(path, NEEDED), { needed });
  await withLock(packagesLock(paths), note, { shared: true, signal });
}

/** The digests of packages that images are being made of. */
export async function neededPackages(paths: StatePaths): Promise<string[]> {
  const works = await readdir(workRoot(paths)).catch(() => []);
  return works.flatMap((id) => {
    const { value } = findRecord<{ needed?: string[] }>(join(workRoot(paths), id, NEEDED));
    return value?.needed ?? [];
  });
}

export async function sweepWorkDirectories(paths: StatePaths): Promise<void> {
  for (const id of await readdir(workRoot(paths)).catch(() => [])) {
    const lockPath = lockFile(paths, `work-${id}`);
    await using lock = await tryLock(lockPath);
    if (lock === undefined) continue;
    await discard(paths, join(workRoot(paths), id));
    await rm(lockPath, { force: true });
  }
}

function workRoot(paths: StatePaths): string {
  return join(paths.store, 'work');
}
