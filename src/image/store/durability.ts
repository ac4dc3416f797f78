/**
 * What the store holds is usable as soon as it is made, before the disk has it all: a power cut
 * could leave files without content. So each entry carries the moment it was made, and the store
 * notes up to which moment of which boot everything has been synced.
 */
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';
import { syncFileSystem } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { withLock } from '../../host/files/flock.ts';
import { dropCached, findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';

/** Boots whose sync points are remembered: entries of older ones that were never used again go. */
const REMEMBERED_BOOTS = 64;

/** A moment in the life of this machine; clocks that are set do not disturb it. */
export interface Moment {
  /** The kernel's id of the boot. */
  readonly boot: string;
  /** Seconds since then. */
  readonly uptime: number;
}

let bootId: string | undefined;

function currentBoot(): string {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return bootId;
}

/** Now. */
export function currentMoment(): Moment {
  return { boot: currentBoot(), uptime: uptime() };
}

/** Whether an entry made at `made` can be trusted to be whole: it is of this boot, or it was synced. */
export function isDurable(paths: StatePaths, made: Moment): boolean {
  return made.boot === currentBoot() || isSynced(paths, made);
}

/** Whether the disk is known to have all that was written until `made`. */
function isSynced(paths: StatePaths, made: Moment): boolean {
  return readSyncPoints(paths).some(
    (point) => point.boot === made.boot && point.uptime >= made.uptime,
  );
}

/** Writes the store to the disk and notes that; a store that is removed meanwhile stays removed. */
export async function syncStore(paths: StatePaths): Promise<void> {
  const started = currentMoment();
  await syncFileSystem(paths.store);
  const locks = join(paths.store, 'locks');
  try {
    // Not recursive: this runs in the background, and would bring back a state that is gone.
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

/** A file that cannot be read says that nothing is known to be synced: that is always safe. */
function readSyncPoints(paths: StatePaths): Moment[] {
  const { value, damage } = findRecord(syncPointFile(paths), takePoints);
  if (damage !== undefined) dropCached(damage);
  return value?.points ?? [];
}
