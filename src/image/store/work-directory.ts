import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { acquireLock, tryLock } from '../../kernel/flock.ts';
import type { StatePaths } from '../../state/paths.ts';
import { discard } from './trash.ts';

/** A folder for something half made, on the store's file system. */
export interface WorkDirectory extends AsyncDisposable {
  readonly path: string;
}

/** The folder of lock files; none of them is ever trusted to be there. */
export function lockFile(paths: StatePaths, name: string): string {
  return join(paths.store, 'locks', name);
}

/** Makes the store's folders: nobody but root looks in. (Turns through Node's thread pool take far longer.) */
export function ensureStore(paths: StatePaths): void {
  mkdirSync(paths.root, { recursive: true, mode: 0o711 });
  const inner = [paths.packages, paths.images, paths.trash, workRoot(paths)];
  for (const path of [paths.store, ...inner, join(paths.store, 'locks')]) {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  }
}

/**
 * Makes a work folder that belongs to this process. Disposing of it throws away what was not
 * renamed out of it; so does {@link sweepWorkDirectories} after the process has died.
 */
export async function openWorkDirectory(paths: StatePaths): Promise<WorkDirectory> {
  ensureStore(paths);
  const id = randomBytes(8).toString('hex');
  // The lock comes first, so that no sweeper ever sees a folder without it.
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

/** Throws away the work folders of processes that are dead. */
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
