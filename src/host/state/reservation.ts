import { hash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno, readText, succeeds } from '../calls/libc.ts';
import { withLock } from '../files/flock.ts';
import { HOST_PIDS, pidNamespace } from '../process/process.ts';
import type { StatePaths } from './paths.ts';

/** How long a maker may take to write the owner into its reservation, ms. */
const WRITING = 10_000;

export type Owner = string;

/** False if a living owner has the name. A reservation is a file of that name, made with O_EXCL: it has its owner. */
export async function reserve(directory: string, name: string, owner: Owner): Promise<boolean> {
  // Only root may open the folder: whoever can open a folder can lock it.
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, name);
  for (;;) {
    const make = () => writeFileSync(path, owner, { flag: 'wx', mode: 0o600 });
    if (succeeds(['EEXIST'], make)) return true;
    const owned = ownerOf(path);
    if (owned === 'living') return false;
    if (owned === 'gone') await locked(directory, () => removeAbandoned(path));
  }
}

export async function releaseReservation(
  directory: string,
  name: string,
  owner: Owner,
): Promise<void> {
  const path = join(directory, name);
  try {
    await locked(directory, () => {
      if (readText(path) === owner) rmSync(path, { force: true });
    });
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
}

/** For an owner whose record is damaged, so that the names are unknown. */
export async function releaseReservationsOf(directory: string, owner: Owner): Promise<void> {
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) await releaseReservation(directory, name, owner);
}

/**
 * Anybody reserves at any time, but only one process removes reservations at a time: another could remove a new one
 * in the place of an abandoned one. Throws E_LOCKED where that process is stopped.
 */
async function locked(directory: string, work: () => void): Promise<void> {
  await withLock(directory, work, { existing: true });
}

function removeAbandoned(path: string): void {
  if (ownerOf(path) === 'gone') rmSync(path, { force: true });
}

function ownerOf(path: string): 'living' | 'gone' | 'no reservation' {
  const owner = readText(path);
  if (owner === undefined) return 'no reservation';
  if (owner === '') {
    // It may be in the making: give it time before it counts as abandoned.
    const { mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { mtimeMs: Date.now() };
    return Date.now() - mtimeMs > WRITING ? 'gone' : 'living';
  }
  return existsSync(owner) ? 'living' : 'gone';
}

/** Ids in one range: as many as distributions' images use (uid 65534 is nobody). */
export const RANGE_SIZE = 65536;

/**
 * 0x70000000 to 0x7fffffff, which systemd's UIDS-GIDS document leaves unused. Range 0 is for the confined
 * children (src/host/confine).
 */
const DEFAULT_BLOCK = { start: 0x7000_0000, count: 0x1000_0000 };

export interface IdRange {
  readonly base: number;
  readonly count: number;
}

export async function idBlock(subuid = '/etc/subuid'): Promise<{ start: number; count: number }> {
  const text = await readFile(subuid, 'utf8').catch(() => '');
  for (const line of text.split('\n')) {
    const [user, start, count] = line.split(':');
    if (user !== 'kiln') continue;
    const block = { start: Number(start), count: Number(count) };
    if (block.start > 0 && block.count >= 2 * RANGE_SIZE) return block;
    throw new KilnError('E_SUBUID', `${subuid}: the entry of kiln is too small: ${line}`, {
      hint: `give it at least ${2 * RANGE_SIZE} ids, or remove the line to use the default block`,
    });
  }
  return DEFAULT_BLOCK;
}

/**
 * Where the search for a free range begins. Containers cannot see each other's reservations, but share the kernel's
 * ids: each begins at a place chosen by the boot and its pid namespace, so two rarely meet. The host begins at the first.
 */
export function firstIndex(total: number, namespace: string, boot: string): number {
  if (namespace === HOST_PIDS || total < 2) return 1;
  const digest = hash('sha256', `${boot}\n${namespace}`, 'buffer');
  return 1 + (digest.readUInt32LE() % (total - 1));
}

function ownFirstIndex(total: number): number {
  const first = attempt(() => {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8');
    return firstIndex(total, pidNamespace(), boot);
  });
  return first ?? 1;
}

export function rangeDirectory(paths: StatePaths): string {
  return join(paths.hostRun, 'ranges');
}

/** A range that no other live sandbox with this /run/kiln has: the host's, or one container's. Throws E_NO_RANGE. */
export async function allocateRange(paths: StatePaths, owner: Owner): Promise<IdRange> {
  const directory = rangeDirectory(paths);
  const block = await idBlock();
  const total = Math.floor(block.count / RANGE_SIZE);
  const first = ownFirstIndex(total);
  for (let tried = 0; tried < total - 1; tried++) {
    const index = 1 + ((first - 1 + tried) % (total - 1));
    const base = block.start + index * RANGE_SIZE;
    if (await reserve(directory, String(base), owner)) return { base, count: RANGE_SIZE };
  }
  throw new KilnError('E_NO_RANGE', `all ${total - 1} id ranges are taken by live sandboxes`, {
    hint: 'see `kiln ps`; `kiln gc` destroys what nobody owns any more',
  });
}

/** No process with its ids may be left. */
export async function releaseRange(paths: StatePaths, range: IdRange, owner: Owner): Promise<void> {
  await releaseReservation(rangeDirectory(paths), String(range.base), owner);
}
