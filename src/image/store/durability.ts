/**
 * Which entries of the store survived a power cut. An entry is usable before the disk has all of it. Each
 * records when it was made, and the store up to which moment of which boot everything was synced.
 */
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';
import { hasErrno } from '../../host/calls/libc.ts';
import { withLock } from '../../host/files/flock.ts';
import { syncFileSystem } from '../../host/process/child-process.ts';
import { findCached, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';

/** Boots whose sync points are remembered. Older entries that were never used again are dropped. */
const REMEMBERED_BOOTS = 64;

export interface Moment {
  readonly boot: string;
  /** Seconds. */
  readonly uptime: number;
}

let bootId: string | undefined;

function currentBoot(): string {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return bootId;
}

export function currentMoment(): Moment {
  return { boot: currentBoot(), uptime: uptime() };
}

export function isDurable(paths: StatePaths, made: Moment): boolean {
  const covers = (point: Moment) => point.boot === made.boot && point.uptime >= made.uptime;
  return made.boot === currentBoot() || readSyncPoints(paths).some(covers);
}

/** Writes the store to the disk and notes that. A store that is deleted meanwhile stays deleted. */
export async function syncStore(paths: StatePaths): Promise<void> {
  const started = currentMoment();
  await syncFileSystem(paths.store);
  const locks = join(paths.store, 'locks');
  try {
    // Not recursive: this runs in the background and must not recreate a deleted state.
    await mkdir(locks, { mode: 0o700 });
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return;
    if (!hasErrno(error, 'EEXIST')) throw error;
  }
  await withLock(join(paths.store, 'locks', 'sync'), async () => {
    const others = readSyncPoints(paths).filter((point) => point.boot !== started.boot);
    const points = [...others, started].slice(-REMEMBERED_BOOTS);
    writeRecord(syncPointFile(paths), { points }, { flush: true });
  });
}

function syncPointFile(paths: StatePaths): string {
  return join(paths.store, 'sync-points.json');
}

const takePoints = withFields<{ readonly points: Moment[] }>({ points: 'array' });

/** If the file cannot be read, nothing counts as synced, which is always safe. */
function readSyncPoints(paths: StatePaths): Moment[] {
  return findCached(syncPointFile(paths), takePoints)?.points ?? [];
}
