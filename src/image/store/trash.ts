import { randomBytes } from 'node:crypto';
import { lstatSync, mkdirSync, renameSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../kernel/libc.ts';
import { removeTree } from '../../kernel/remove-tree.ts';
import type { StatePaths } from '../../state/paths.ts';

/**
 * Takes a tree out of the way at once; it is deleted later. (Making many inodes soon after deleting
 * many costs ext4 seconds: deleting never belongs on the way to a result.)
 * @returns where it lies now; undefined if there was nothing
 */
export async function discard(paths: StatePaths, path: string): Promise<string | undefined> {
  // Called for each package of an image: a turn through Node's thread pool takes longer than these.
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
  mkdirSync(paths.trash, { recursive: true, mode: 0o700 });
  try {
    const trashed = join(paths.trash, randomBytes(8).toString('hex'));
    renameSync(path, trashed);
    return trashed;
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
    return undefined;
  }
}

export interface EmptyTrashOptions {
  /** Only what was thrown away at least this long ago, seconds. */
  readonly minimumAge?: number;
  /** Rest between two trees, milliseconds: others want the disk as well. */
  readonly pause?: number;
  readonly signal?: AbortSignal;
  /** Told of each tree that could not be deleted; the others are deleted all the same. */
  readonly onFailure?: (error: KilnError) => void;
}

/** Deletes what was discarded. Returns how many trees that were; safe to run several times at once. */
export async function emptyTrash(
  paths: StatePaths,
  options: EmptyTrashOptions = {},
): Promise<number> {
  const { minimumAge = 0, pause = 0, signal, onFailure } = options;
  let deleted = 0;
  for (const name of await readdir(paths.trash).catch(() => [])) {
    if (signal?.aborted) break;
    const path = join(paths.trash, name);
    const entry = await stat(path).catch(() => undefined);
    if (entry === undefined) continue;
    // A rename sets the change time: that is when it was thrown away. Its clock is finer than ours.
    if (Math.ceil(Date.now() - entry.ctimeMs) < minimumAge * 1000) continue;
    try {
      await removeTree(path, signal);
      deleted++;
    } catch (error) {
      if (!(error instanceof KilnError && error.code === 'E_REMOVE')) throw error;
      onFailure?.(error);
    }
    if (pause > 0) await sleep(pause);
  }
  return deleted;
}
