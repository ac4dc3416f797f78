/** Folders of jobs below KILN_STATE, which only root enters. A sweep removes those of processes that are gone. */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type HeldLock, tryLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import type { StateRoot } from '../host/state/paths.ts';

const LOCKED = '.lock';

export function lockOf(folder: string): string {
  return `${folder}${LOCKED}`;
}

export function jobsFolder(paths: StateRoot): string {
  return join(paths.root, 'jobs');
}

export async function sweepJobs(paths: StateRoot): Promise<void> {
  const jobs = jobsFolder(paths);
  for (const name of await readdir(jobs).catch(() => [])) {
    if (!name.endsWith(LOCKED)) continue;
    const file = join(jobs, name);
    await using lock = await tryLock(file, { existing: true }).catch(() => undefined);
    if (lock === undefined) continue;
    await removeTree(file.slice(0, -LOCKED.length));
    rmSync(file, { force: true });
  }
}

export class JobFolder implements AsyncDisposable {
  readonly path: string;
  readonly #lock: HeldLock;
  #count = 0;

  private constructor(path: string, lock: HeldLock) {
    this.path = path;
    this.#lock = lock;
  }

  static async make(paths: StateRoot): Promise<JobFolder> {
    const jobs = jobsFolder(paths);
    // Sandboxes pass what lies above it.
    mkdirSync(paths.root, { recursive: true, mode: 0o711 });
    mkdirSync(jobs, { recursive: true, mode: 0o700 });
    for (;;) {
      const path = join(jobs, randomUUID());
      const lock = await tryLock(lockOf(path));
      // A sweep may have seen the lock before it was held.
      if (lock !== undefined && existsSync(lockOf(path))) {
        mkdirSync(path, { mode: 0o700 });
        return new JobFolder(path, lock);
      }
      await lock?.release();
    }
  }

  inner(): string {
    const folder = join(this.path, String(this.#count++));
    mkdirSync(folder, { mode: 0o700 });
    return folder;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await removeTree(this.path);
    rmSync(lockOf(this.path), { force: true });
    await this.#lock.release();
  }
}
