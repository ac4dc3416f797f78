/**
 * Snapshots: each is a layer that a sandbox has written, read-only, and the stack that it stands on. The folder of one
 * appears as a whole. It stays while a sandbox or another snapshot stands on it.
 */
import { existsSync, utimesSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { acquireLock, type HeldLock, lockUnlessHeld, unlessGone } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { Capability } from '../../host/process/process.ts';
import { bytesFor } from '../../host/state/disk-watch.ts';
import { longLived, type Recorded } from '../../host/state/long-lived.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { readSandboxRecord } from '../../sandbox/domain/sandbox-record.ts';
import { isDurable, type Moment } from './durability.ts';
import type { Amount } from './gc.ts';
import { discard } from './work-directory.ts';

/** snapshot.json */
export interface SnapshotRecord {
  readonly id: string;
  readonly created: number;
  readonly made: Moment;
  /** The uid of a user who is not root. */
  readonly owner?: number;
  /** One without a name goes with its sandbox. */
  readonly name?: string;
  readonly sandbox: string;
  /** Where that is a machine. */
  readonly isolation?: 'vm';
  readonly image: string;
  /** Snapshots that it stands on, the lowest first. */
  readonly layers: readonly string[];
  readonly digest: string;
  readonly bytes: number;
  readonly entries: number;
  /** What a command in a fork of it is like. */
  readonly command: {
    readonly user: string;
    readonly capabilities: readonly Capability[];
    readonly seccomp: string;
    readonly env: Readonly<Record<string, string>>;
    readonly workdir: string;
  };
}

export type Snapshot = Recorded<SnapshotRecord>;

/** The digest of a layer that nobody has looked at yet. */
export const UNSETTLED = '';

export const snapshotFiles = {
  tree: (folder: string) => join(folder, 'tree'),
  /** Locked (shared) while somebody begins to use it. */
  lease: (folder: string) => join(folder, 'lease'),
};

const folders = longLived<SnapshotRecord, undefined>({
  ...{ record: 'snapshot.json', lock: 'lease' },
  fields: {
    ...({ id: 'string', created: 'number', made: 'object', sandbox: 'string' } as const),
    ...({ image: 'string', layers: 'array', digest: 'string', command: 'object' } as const),
  },
  damaged: (id) => `the snapshot ${id} cannot be used, and \`kiln gc\` removes it`,
  stateOf: () => undefined,
});

const { read: readSnapshot } = folders;
export const { write: writeSnapshot } = folders;

type Viewer = { readonly uid: number } | undefined;

/** Those of the owner that can be used, oldest first; root sees all. */
export async function listSnapshots(paths: StatePaths, owner: Viewer): Promise<Snapshot[]> {
  const all = await folders.records(paths.snapshots, owner);
  return all.filter(({ record }) => isWhole(paths, record) && !isOver(paths, record));
}

/** One that was cut off has no files. */
function isWhole(paths: StatePaths, { id, made }: SnapshotRecord): boolean {
  return isDurable(paths, made) && existsSync(snapshotFiles.tree(join(paths.snapshots, id)));
}

function isOver(paths: StatePaths, { name, sandbox }: SnapshotRecord): boolean {
  return name === undefined && !existsSync(join(paths.sandboxes, sandbox));
}

/** Digits of an id that are enough. */
const SHORTEST = 4;

/** By a name of the owner's own, or the beginning of an id. @throws KilnError E_NO_SNAPSHOT */
export async function findSnapshot(
  paths: StatePaths,
  owner: Viewer,
  word: string,
): Promise<Snapshot> {
  const all = await listSnapshots(paths, owner);
  const named = all.find(({ record }) => record.name === word && record.owner === owner?.uid);
  if (named !== undefined) return named;
  const found = word.length < SHORTEST ? [] : all.filter(({ id }) => id.startsWith(word));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  if (found.length === 0) {
    throw new KilnError('E_NO_SNAPSHOT', `there is no snapshot ${word || '""'}`, {
      hint: '`kiln snapshot ls` lists them; `kiln snapshot ID` makes one of a kept sandbox',
    });
  }
  throw new KilnError('E_NO_SNAPSHOT', `snapshot ${word}: ${found.length} ids begin so`, {
    hint: 'give more of the id: `kiln snapshot ls` shows it',
  });
}

/** Keeps one from being removed that is being made. @param folder of its own */
export async function holdSnapshot(folder: string): Promise<AsyncDisposable> {
  const lock = await acquireLock(snapshotFiles.lease(folder), { shared: true });
  return { [Symbol.asyncDispose]: () => lock.release() };
}

export interface LeasedSnapshot extends AsyncDisposable {
  readonly record: SnapshotRecord;
  readonly tree: string;
}

/** It cannot be removed until this is disposed of. @throws KilnError E_NO_SNAPSHOT */
export async function leaseSnapshot(paths: StatePaths, id: string): Promise<LeasedSnapshot> {
  const folder = join(paths.snapshots, id);
  const lock = await unlessGone(acquireLock(snapshotFiles.lease(folder), { shared: true }));
  const record = lock && readSnapshot(folder);
  if (lock !== undefined && record !== undefined) {
    const now = new Date();
    utimesSync(snapshotFiles.lease(folder), now, now);
    const tree = snapshotFiles.tree(folder);
    return { record, tree, [Symbol.asyncDispose]: () => lock.release() };
  }
  await lock?.release();
  throw new KilnError('E_NO_SNAPSHOT', `the snapshot ${id} is gone`, {
    hint: '`kiln snapshot ls` lists those that are there',
  });
}

async function lockUnused(lease: string, id: string): Promise<HeldLock> {
  const held = await lockUnlessHeld(lease);
  if (held === undefined) throw inUseError(id, 'a command that begins to use it');
  return held;
}

/** @throws KilnError E_SNAPSHOT_IN_USE */
export async function removeSnapshot(paths: StatePaths, id: string): Promise<void> {
  const folder = join(paths.snapshots, id);
  await using lock = await unlessGone(lockUnused(snapshotFiles.lease(folder), id));
  if (lock === undefined) return;
  const holder = (await standing(paths)).get(id);
  if (holder !== undefined) throw inUseError(id, holder);
  const tree = await discard(paths, folder);
  if (tree !== undefined) await removeTree(tree);
}

function inUseError(id: string, by: string): KilnError {
  return new KilnError('E_SNAPSHOT_IN_USE', `snapshot ${id} is in use by ${by}`, {
    hint: 'remove that first: `kiln kill ID` of a sandbox, `kiln snapshot rm ID` of a snapshot',
  });
}

/** What stands on each snapshot that something stands on. */
async function standing(paths: StatePaths): Promise<Map<string, string>> {
  const holders = new Map<string, string>();
  for (const id of await readdir(paths.sandboxes).catch(() => [])) {
    const { layers = [], rollback } = readSandboxRecord(join(paths.sandboxes, id)) ?? {};
    // One that a rollback was cut off of may stand on the snapshot already.
    for (const layer of [...layers, rollback ?? '']) holders.set(layer, `sandbox ${id}`);
  }
  for (const { id, record } of await folders.records(paths.snapshots, undefined)) {
    for (const layer of record.layers) holders.set(layer, `snapshot ${id}`);
  }
  return holders;
}

/**
 * Removes those that are over, or that a power cut has not left whole, unless something stands on them.
 * @param goes others that are to go as well
 */
export async function sweepSnapshots(
  paths: StatePaths,
  owner: Viewer,
  goes: (record: SnapshotRecord) => boolean = () => false,
): Promise<string[]> {
  const removed: string[] = [];
  // A snapshot may stand on another that is over, too: the newest goes first.
  const all = (await folders.records(paths.snapshots, owner)).reverse();
  const broken = owner === undefined ? await unreadable(paths) : [];
  for (const { id, record } of all) {
    if (isWhole(paths, record) && !isOver(paths, record) && !goes(record)) continue;
    if (await removeIdle(paths, id)) removed.push(id);
  }
  for (const id of broken) if (await removeIdle(paths, id)) removed.push(id);
  return removed;
}

async function unreadable(paths: StatePaths): Promise<string[]> {
  const ids = await readdir(paths.snapshots).catch(() => []);
  return ids.filter((id) => folders.find(join(paths.snapshots, id)).value === undefined);
}

/** @returns false where something uses it */
export async function removeIdle(paths: StatePaths, id: string): Promise<boolean> {
  try {
    await removeSnapshot(paths, id);
    return true;
  } catch (error) {
    if (error instanceof KilnError && error.code === 'E_SNAPSHOT_IN_USE') return false;
    throw error;
  }
}

/** Also of those that are over, which take the disk until they are swept. */
export async function snapshotUsage(paths: StatePaths, owner: Viewer): Promise<Amount> {
  const all = await folders.records(paths.snapshots, owner);
  const bytes = all.reduce((sum, { record }) => sum + snapshotBytes(record), 0);
  return { count: all.length, bytes };
}

export async function snapshotOwners(paths: StatePaths): Promise<(number | undefined)[]> {
  return (await folders.records(paths.snapshots, undefined)).map(({ record }) => record.owner);
}

/** Files without content take a disk, too. */
export function snapshotBytes({ bytes, entries }: SnapshotRecord): number {
  return Math.max(bytes, bytesFor(entries));
}
