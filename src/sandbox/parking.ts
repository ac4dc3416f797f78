import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { tryLock } from '../kernel/flock.ts';
import { hasErrno } from '../kernel/libc.ts';
import type { Connection } from '../libvirt/connection.ts';
import type { StatePaths } from '../state/paths.ts';
import { Box, boxFiles, readBoxRecord, startDomain } from './box.ts';
import { ensureSkeleton } from './skeleton.ts';

/**
 * Claims a box that waits, if there is one that fits: one rename decides who gets it. Whatever is
 * wrong with it, it is destroyed and the next one is tried.
 */
export async function claimParked(
  paths: StatePaths,
  connect: () => Promise<Connection>,
): Promise<Box | undefined> {
  const waiting = await readdir(paths.parked).catch(() => []);
  if (waiting.length === 0) return undefined;
  const skeleton = await ensureSkeleton(paths);
  for (const id of waiting) {
    const directory = join(paths.boxes, id);
    try {
      await rename(join(paths.parked, id), directory);
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) continue; // somebody else has it
      throw error;
    }
    const lock = await tryLock(boxFiles.lock(directory));
    const record = await readBoxRecord(directory);
    // Without a lock it is the sweeper's already; both others are the sweeper's as soon as we let go.
    if (lock === undefined) continue;
    if (record?.skeleton !== skeleton) {
      await lock.release();
      continue;
    }
    try {
      return await Box.own(paths, { directory, record, lock }, connect);
    } catch {
      await lock.release();
    }
  }
  return undefined;
}

/** How many boxes wait. */
export async function countParked(paths: StatePaths): Promise<number> {
  return (await readdir(paths.parked).catch(() => [])).length;
}

/** Starts one box and leaves it waiting. It is seen by claims only once it is whole. */
export async function park(paths: StatePaths, connection: Connection): Promise<void> {
  const started = await startDomain(paths, connection, paths.boxes, {
    network: 'private',
    autodestroy: false,
  });
  await rename(started.directory, join(paths.parked, started.record.id));
  await started.lock.release();
}
