/**
 * Groups of processes in the v1 pids hierarchy, where libvirt makes none: one for each box, below one
 * of kiln's own. Source: the kernel's admin-guide/cgroup-v1/pids.
 */
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { knownHierarchies } from './cgroup.ts';
import { hasErrno } from './libc.ts';

/** The folder of all of them. */
const PIDS_PARENT = 'kiln';

/** How long to wait for killed processes to leave a group, and how often to look. */
const REMOVE_MS = 2000;
const REMOVE_PAUSE_MS = 10;

/** The group for `id`, in the hierarchy that is mounted at `hierarchy`. */
export function pidsGroup(hierarchy: string, id: string): string {
  return join(hierarchy, PIDS_PARENT, id);
}

/**
 * Removes the pids group that a limit made, and the folder of all of them after the last one; fine
 * when there is none. Its processes must be dying.
 */
export async function removePidsGroup(id: string): Promise<void> {
  for (const { path, version, controllers } of knownHierarchies()) {
    if (version !== 1 || !controllers.includes('pids')) continue;
    await removeGroup(pidsGroup(path, id));
    try {
      rmdirSync(join(path, PIDS_PARENT));
    } catch (error) {
      // Others are in it, or removed it first.
      if (!hasErrno(error, 'ENOENT', 'EBUSY', 'ENOTEMPTY')) throw error;
    }
  }
}

/** Makes a group and its parent, which whoever removes the last group in it may remove meanwhile. */
export function makePidsGroup(path: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      mkdirSync(path, { recursive: true });
      return;
    } catch (error) {
      if (!hasErrno(error, 'ENOENT') || attempt === 10) throw error;
    }
  }
}

/** A group is busy until the last of its killed processes has left. */
async function removeGroup(path: string): Promise<void> {
  for (let left = REMOVE_MS; ; left -= REMOVE_PAUSE_MS) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return;
      if (!hasErrno(error, 'EBUSY') || left <= 0) throw error;
      await sleep(REMOVE_PAUSE_MS);
    }
  }
}
