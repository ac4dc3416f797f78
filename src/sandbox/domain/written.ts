/**
 * What sandboxes write that have their root on the disk. A file there may have any owner and set-id bits, as in an image:
 * only root enters the folder.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { unlessErrno } from '../../host/calls/libc.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { StatePaths } from '../../host/state/paths.ts';

/** A new folder for a sandbox's next layer. */
export function newScratch(paths: StatePaths, id: string): string {
  const folder = join(paths.written, id);
  for (const path of [paths.store, paths.written, folder]) {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  }
  const scratch = join(folder, randomBytes(4).toString('hex'));
  mkdirSync(scratch, { mode: 0o700 });
  return scratch;
}

/** Out of the way at once, and deleted later: what a kill leaves of it, `kiln gc` deletes. */
function toTrash(paths: StatePaths, folder: string): string | undefined {
  if (!existsSync(folder)) return undefined;
  mkdirSync(paths.trash, { recursive: true, mode: 0o700 });
  return unlessErrno(['ENOENT'], () => {
    const trashed = join(paths.trash, randomBytes(8).toString('hex'));
    renameSync(folder, trashed);
    return trashed;
  });
}

/** After this time, ms, whoever has discarded it has been answered. */
const LATER = 1000;

/** Nobody waits until all of it is deleted. */
export function discardScratch(paths: StatePaths, scratch: string): void {
  const trashed = toTrash(paths, scratch);
  if (trashed === undefined) return;
  setTimeout(() => void removeTree(trashed).catch(() => undefined), LATER).unref();
}

/** Of a sandbox that is gone. */
export async function removeWritten(paths: StatePaths, id: string): Promise<void> {
  const trashed = toTrash(paths, join(paths.written, id));
  if (trashed !== undefined) await removeTree(trashed);
}

/** Of sandboxes that a restart of the host has ended. */
export async function sweepWritten(paths: StatePaths): Promise<void> {
  for (const id of await readdir(paths.written).catch(() => [])) {
    if (!existsSync(join(paths.sandboxes, id))) await removeWritten(paths, id);
  }
}
