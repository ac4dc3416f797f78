import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { acquireLock, type HeldLock, tryLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { treeUsage } from '../host/files/tree-usage.ts';
import { findRecord, withFields, writeRecord } from '../host/state/checked-file.ts';
import { bytesFor, filesFor } from '../host/state/disk-watch.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { onlyOne } from '../sandbox/domain/sandbox-record.ts';

/** How long an ended job is kept, milliseconds: a week, so that Friday's is there on Monday. */
const KEPT_MS = 7 * 24 * 3_600_000;

/** Ended jobs of one owner that are kept: with the bound of each one's output this bounds the disk. */
const KEPT_JOBS = 50;

/** job.json. Times are milliseconds since 1970. */
export interface JobRecord {
  readonly id: string;
  readonly name?: string;
  readonly owner?: number;
  readonly command: readonly string[];
  readonly created: number;
  readonly tty: boolean;
  readonly resultDirectory?: string;
  /** Of a command's job. */
  readonly sandbox?: string;
  /** It goes on without its caller since then. */
  readonly began?: number;
  readonly ended?: { readonly at: number; readonly status: number };
}

/** Words of a command line that are kept, and characters of each: they are to tell jobs from each other. */
const WORDS = 32;
const LETTERS = 200;

export function shortened(words: readonly string[]): string[] {
  return words.slice(0, WORDS).map((word) => word.slice(0, LETTERS));
}

/** Counts to little more than `most`. A file counts as what a disk has for each, however little is in it. */
export async function keptBytes(
  paths: Pick<StatePaths, 'root'>,
  owner: { readonly uid: number },
  most: number,
): Promise<number> {
  let kept = 0;
  for (const { folder } of await listJobs(paths, owner)) {
    if (kept > most) break;
    const { bytes, entries } = treeUsage(folder, { bytes: most, entries: filesFor(most) });
    kept += Math.max(bytes, bytesFor(entries));
  }
  return kept;
}

/** `lost`: the process that worked for it died, and its sandboxes with it. */
type JobState = 'starting' | 'running' | 'ended' | 'lost';

export interface ListedJob {
  readonly state: JobState;
  readonly folder: string;
  readonly record: JobRecord;
}

type Owner = { readonly uid: number } | undefined;

export const jobFiles = {
  record: (folder: string) => join(folder, 'job.json'),
  lock: (folder: string) => join(folder, 'lock'),
  results: (folder: string) => join(folder, 'results'),
  /** Short: a socket's path may have 107 bytes. */
  socket: ({ run }: Pick<StatePaths, 'run'>, id: string) => join(run, 'jobs', id),
};

function folderOfAll({ root }: Pick<StatePaths, 'root'>): string {
  return join(root, 'detached');
}

function foldersOf(paths: Pick<StatePaths, 'root'>): string[] {
  const all = folderOfAll(paths);
  try {
    return readdirSync(all).map((id) => join(all, id));
  } catch {
    return [];
  }
}

const takeRecord = withFields<JobRecord>({
  ...({ id: 'string', command: 'array', created: 'number', tty: 'boolean' } as const),
});

export function writeJob(folder: string, record: JobRecord): void {
  writeRecord(jobFiles.record(folder), record);
}

function readJob(folder: string): JobRecord | undefined {
  return findRecord(jobFiles.record(folder), takeRecord).value;
}

export async function lockNames(paths: Pick<StatePaths, 'root'>): Promise<HeldLock> {
  mkdirSync(folderOfAll(paths), { recursive: true, mode: 0o700 });
  return await acquireLock(`${folderOfAll(paths)}.lock`);
}

/** Only root enters the folder, which is locked. */
export async function makeJobFolder(
  paths: Pick<StatePaths, 'root'>,
): Promise<{ readonly id: string; readonly folder: string; readonly lock: HeldLock }> {
  for (;;) {
    const id = randomBytes(5).toString('hex');
    const folder = join(folderOfAll(paths), id);
    mkdirSync(folderOfAll(paths), { recursive: true, mode: 0o700 });
    mkdirSync(folder, { mode: 0o700 });
    const lock = await tryLock(jobFiles.lock(folder));
    // Somebody who sweeps may have been faster.
    if (lock !== undefined) return { id, folder, lock };
  }
}

async function isFree(folder: string): Promise<boolean> {
  const how = { shared: true, existing: true };
  const lock = await tryLock(jobFiles.lock(folder), how).catch(() => undefined);
  await lock?.release();
  return lock !== undefined;
}

export async function listJobs(
  paths: Pick<StatePaths, 'root'>,
  owner: Owner,
): Promise<ListedJob[]> {
  const jobs: ListedJob[] = [];
  for (const folder of foldersOf(paths)) {
    const record = readJob(folder);
    if (record === undefined || (owner !== undefined && record.owner !== owner.uid)) continue;
    const job = await stateOf(folder, record);
    if (job !== undefined) jobs.push(job);
  }
  return jobs.sort((a, b) => a.record.created - b.record.created);
}

async function stateOf(folder: string, before: JobRecord): Promise<ListedJob | undefined> {
  if (before.ended !== undefined) return { state: 'ended', folder, record: before };
  if (!(await isFree(folder))) {
    return { state: before.began === undefined ? 'starting' : 'running', folder, record: before };
  }
  // It may have ended since it was read; one that did not begin is removed.
  const record = readJob(folder);
  if (record === undefined) return undefined;
  return { state: record.ended === undefined ? 'lost' : 'ended', folder, record };
}

/**
 * By an id, the beginning of one, or a name (the newest that has it), among those that `owner` sees. @throws
 * KilnError E_NO_JOB
 */
export async function findJob(
  paths: Pick<StatePaths, 'root'>,
  owner: Owner,
  word: string,
): Promise<ListedJob> {
  return jobCalled(await listJobs(paths, owner), word, owner);
}

/** Root sees everybody's jobs, but names mean the caller's own: a user could take one of root's. */
export function jobCalled(listed: readonly ListedJob[], word: string, owner: Owner): ListedJob {
  const jobs = listed.filter(({ state }) => state !== 'starting');
  const named = jobs.findLast(({ record }) => record.name === word && record.owner === owner?.uid);
  if (named !== undefined) return named;
  return onlyOne('job', word, jobs, ({ record }) => record.id);
}

/**
 * The sandbox of such a job, among those with these ids: what `--keep` left of one that has ended can be entered and
 * destroyed by the job's id or name. @throws KilnError E_NO_JOB where the ids of several begin so
 */
export function sandboxOfJob(
  listed: readonly ListedJob[],
  word: string,
  owner: Owner,
  sandboxes: readonly { readonly id: string }[],
): string | undefined {
  const left = listed.filter(({ record }) => sandboxes.some(({ id }) => id === record.sandbox));
  // The beginning of a sandbox's own id means that one.
  const isFree = word !== '' && !sandboxes.some(({ id }) => id.startsWith(word));
  const isMeant = ({ record: { id, name, owner: whose } }: ListedJob) =>
    (name === word && whose === owner?.uid) || (isFree && id.startsWith(word));
  return left.some(isMeant) ? jobCalled(left, word, owner).record.sandbox : undefined;
}

export function titleOf({ id, name }: JobRecord): string {
  return name ?? id;
}

/**
 * Of those that nobody works for: all that ended before `maxAge`, ms, and all but the newest {@link
 * KEPT_JOBS} of each owner. Returns their ids.
 */
export async function removeOldJobs(
  paths: Pick<StatePaths, 'root'>,
  owner: Owner,
  maxAge: number = KEPT_MS,
): Promise<string[]> {
  const removed: string[] = [];
  const kept = new Map<number | undefined, number>();
  const over = (await listJobs(paths, owner)).filter(({ state }) =>
    ['ended', 'lost'].includes(state),
  );
  for (const { folder, record } of over.reverse()) {
    const count = (kept.get(record.owner) ?? 0) + 1;
    kept.set(record.owner, count);
    const since = record.ended?.at ?? record.created;
    if (count <= KEPT_JOBS && Date.now() - since < maxAge) continue;
    await removeTree(folder);
    removed.push(record.id);
  }
  if (owner === undefined) await removeUnbegun(paths);
  return removed;
}

async function removeUnbegun(paths: Pick<StatePaths, 'root'>): Promise<void> {
  for (const folder of foldersOf(paths)) {
    // Not looked at under the lock: whoever lists jobs would take a lost one for one that runs.
    if (readJob(folder)?.began !== undefined) continue;
    const lock = await tryLock(jobFiles.lock(folder), { existing: true }).catch(() => undefined);
    if (lock === undefined) continue;
    if (readJob(folder)?.began === undefined) await removeTree(folder);
    await lock.release();
  }
}
