import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { acquireLock, tryLock } from '../kernel/flock.ts';
import { hasErrno } from '../kernel/libc.ts';
import type { Connection } from '../libvirt/connection.ts';
import { isListedNow } from '../libvirt/watched.ts';
import type { StatePaths } from '../state/paths.ts';
import { span } from '../trace/trace.ts';
import { Box, destroyDomain, ensureBoxDirectories, startDomain } from './box.ts';
import { boxFiles, isExpired, PARKED_LIFETIME, readBoxRecord } from './box-record.ts';
import { setupFailed } from './failures.ts';
import { procOperations } from './filesystem.ts';
import { labelOperation } from './labels/sources.ts';
import { knownSkeleton } from './skeleton.ts';
import { sweepBoxes } from './sweep.ts';
import { encodeRequest } from './wire/encode.ts';

/** Nobody claims a box that is about to end by itself, milliseconds. */
const LAST_MOMENT = 5000;

/**
 * So many boxes in a row that libvirt has lost sight of are ended, since one that nobody claims is to
 * end without a kiln; then one waits in spite of it. See Domain.isWatched().
 */
const LOST_MAX = 5;

/**
 * Claims a box that waits, if there is one that fits: one rename decides who gets it. Whatever is
 * wrong with it, it is destroyed and the next one is tried.
 */
export async function claimParked(
  paths: StatePaths,
  connect: () => Promise<Connection>,
): Promise<Box | undefined> {
  using _ = span('claim a parked box');
  const waiting = parkedIds(paths);
  if (waiting.length === 0) return undefined;
  const skeleton = knownSkeleton(paths);
  if (skeleton === undefined) return undefined;
  const soon = Date.now() + LAST_MOMENT;
  // Nothing is awaited before one is ours: of several claims of one process none meets another's.
  for (const id of waiting) {
    const record = readBoxRecord(join(paths.parked, id));
    // The next refill sweeps it.
    if (record !== undefined && isExpired(record, soon)) continue;
    const directory = join(paths.boxes, id);
    try {
      renameSync(join(paths.parked, id), directory);
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) continue; // somebody else has it
      throw error;
    }
    const lock = await tryLock(boxFiles.lock(directory));
    // Without a lock it is the sweeper's already; both others are the sweeper's as soon as we let go.
    if (lock === undefined) continue;
    if (record?.skeleton !== skeleton) {
      await lock.release();
      continue;
    }
    try {
      return await Box.own(paths, { directory, record, lock, prepared: true }, connect);
    } catch {
      // It is dead: the sweeper's.
    }
  }
  return undefined;
}

/** How many boxes wait, without those that have waited for too long. */
export function countParked(paths: StatePaths): number {
  return parkedIds(paths).filter((id) => stillWaits(paths, id)).length;
}

function stillWaits(paths: StatePaths, id: string): boolean {
  const record = readBoxRecord(join(paths.parked, id));
  return record !== undefined && !isExpired(record, Date.now());
}

function parkedIds(paths: StatePaths): string[] {
  try {
    return readdirSync(paths.parked);
  } catch {
    return [];
  }
}

/** Where the number of boxes that are to wait is kept. */
function targetFile(paths: StatePaths): string {
  return join(paths.run, 'park-target');
}

/** How many sandboxes are to wait; undefined if nobody has said so since the boot. */
export function parkTarget(paths: StatePaths): number | undefined {
  try {
    return Number(readFileSync(targetFile(paths), 'utf8')) || 0;
  } catch {
    return undefined;
  }
}

/** Asks for `count` waiting boxes; {@link refill} starts them. */
export function setParkTarget(paths: StatePaths, count: number): void {
  ensureBoxDirectories(paths);
  writeFileSync(targetFile(paths), String(count));
}

/**
 * Starts boxes until as many wait as are asked for. While another process is doing so, that is left
 * to it, or with `wait` waited for. Returns how many wait.
 */
export async function refill(
  paths: StatePaths,
  connect: () => Promise<Connection>,
  options: {
    readonly wait?: boolean;
    /** How long each of them is to wait, milliseconds; {@link PARKED_LIFETIME} unless given. */
    readonly lifetime?: number;
    /** How many are to wait if nobody has said so by {@link setParkTarget}. */
    readonly usual?: number;
  } = {},
): Promise<number> {
  ensureBoxDirectories(paths);
  const { lifetime = PARKED_LIFETIME, usual = 0 } = options;
  const fewerWait = () => countParked(paths) < (parkTarget(paths) ?? usual);
  const path = join(paths.run, 'refill.lock');
  let lock = options.wait === true ? await acquireLock(path) : await tryLock(path);
  while (lock !== undefined) {
    try {
      for (let lost = 0; fewerWait(); ) {
        const waits = await park(paths, await connect(), lifetime, lost < LOST_MAX);
        lost = waits ? 0 : lost + 1;
      }
      // Whoever finds a box that waits does not look for others' remains.
      if (parkedIds(paths).some((id) => !stillWaits(paths, id))) await sweepBoxes(paths, connect);
    } finally {
      await lock.release();
    }
    // Whoever left its box to this process may have done so after the last look.
    lock = fewerWait() ? await tryLock(path) : undefined;
  }
  return countParked(paths);
}

/**
 * Starts one box and leaves it waiting. It is seen by claims only once it is whole. If it `mustBeWatched`
 * and is not, it is ended instead, and the answer is false.
 */
async function park(
  paths: StatePaths,
  connection: Connection,
  lifetime: number,
  mustBeWatched: boolean,
): Promise<boolean> {
  using _ = span('park a box');
  const started = await startDomain(paths, connection, {
    network: 'private',
    label: { kind: 'auto' },
    autodestroy: false,
  });
  const box = await Box.own(paths, started, async () => connection);
  try {
    await prepare(box, lifetime);
  } catch (error) {
    await box.destroy();
    throw error;
  }
  const { domain } = started;
  if (mustBeWatched && !(await domain.isWatched()) && isListedNow(domain.name)) {
    try {
      // By libvirt, since its init waits by now.
      await destroyDomain(connection, domain.name);
    } finally {
      await box.destroy();
    }
    return false;
  }
  renameSync(started.directory, join(paths.parked, box.id));
  await started.lock.release();
  return true;
}

/** Has a box's init make what it can before anybody knows what the box is for, and leaves it to wait. */
async function prepare({ id, record, cgroups, channel }: Box, lifetime: number): Promise<void> {
  // First: the init is to see itself at the root of its cgroups.
  await cgroups.prepare(channel.initPid, id);
  const made = [...labelOperation(record.labels), ...procOperations()];
  const wait = { op: 'wait', seconds: Math.ceil(lifetime / 1000) } as const;
  channel.send(encodeRequest('prepare', [...made, wait]));
  await channel.ask((answer) => {
    if (answer.type === 'failed') {
      throw setupFailed(answer, { sources: [], binds: [], labels: record.labels });
    }
    return answer.type === 'done' ? true : undefined;
  });
  await channel.close();
}
