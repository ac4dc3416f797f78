/** Detached jobs on the disk: one folder each, with what is known of the job, its output and its results. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { type HeldLock, tryLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { treeUsage } from '../host/files/tree-usage.ts';
import { findRecord, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { StatePaths } from '../host/state/paths.ts';

/** How long an ended job is kept, milliseconds: a week, so that Friday's is there on Monday. */
const KEPT_MS = 7 * 24 * 3_600_000;

/** Ended jobs of one owner that are kept: with the bound of each one's output this bounds the disk. */
const KEPT_JOBS = 50;

/** job.json. Times are milliseconds since 1970. */
export interface JobRecord {
  readonly id: string;
  readonly name?: string;
  /** The user whose it is; absent where it is root's. */
  readonly owner?: number;
  /** The words behind `kiln`. */
  readonly command: readonly string[];
  readonly created: number;
  /** Whether its command has a terminal, which takes input. */
  readonly tty: boolean;
  /** Where its results go; absent where they wait in the job's folder. */
  readonly resultDirectory?: string;
  /** It goes on without its caller since then. */
  readonly began?: number;
  readonly ended?: { readonly at: number; readonly status: number };
}

/** Words of a command line that are kept, and characters of each: they are to tell jobs from each other. */
const WORDS = 32;
const LETTERS = 200;

/** The words of a command line, as a record has them. */
export function shortened(words: readonly string[]): string[] {
  return words.slice(0, WORDS).map((word) => word.slice(0, LETTERS));
}

/** Bytes that the ended jobs of a user hold, or more than `most`. */
export async function keptBytes(
  paths: Pick<StatePaths, 'root'>,
  owner: { readonly uid: number },
  most: number,
): Promise<number> {
  let bytes = 0;
  for (const { folder } of await listJobs(paths, owner)) {
    if (bytes > most) break;
    bytes += treeUsage(folder, { bytes: most, entries: Number.POSITIVE_INFINITY }).bytes;
  }
  return bytes;
}

/** `lost`: the process that worked for it died, and its sandboxes with it. */
type JobState = 'starting' | 'running' | 'ended' | 'lost';

export interface ListedJob {
  readonly state: JobState;
  readonly folder: string;
  readonly record: JobRecord;
}

/** Whose jobs: a user's own; undefined: everybody's, as root sees them. */
type Owner = { readonly uid: number } | undefined;

export const jobFiles = {
  record: (folder: string) => join(folder, 'job.json'),
  /** Locked while somebody works for the job. */
  lock: (folder: string) => join(folder, 'lock'),
  results: (folder: string) => join(folder, 'results'),
  /** Short: a socket's path may have 107 bytes. */
  socket: ({ run }: Pick<StatePaths, 'run'>, id: string) => join(run, 'jobs', id),
};

function foldersOf({ root }: Pick<StatePaths, 'root'>): string {
  return join(root, 'detached');
}

const takeRecord = withFields<JobRecord>({
  id: 'string',
  command: 'array',
  created: 'number',
  tty: 'boolean',
});

export function writeJob(folder: string, record: JobRecord): void {
  writeRecord(jobFiles.record(folder), record);
}

/** What is written of a job; undefined where nothing is, or it is damaged. */
function readJob(folder: string): JobRecord | undefined {
  return findRecord(jobFiles.record(folder), takeRecord).value;
}

/** Makes the folder of a new job, which only root enters, and locks it. */
export async function makeJobFolder(
  paths: Pick<StatePaths, 'root'>,
): Promise<{ readonly id: string; readonly folder: string; readonly lock: HeldLock }> {
  for (;;) {
    const id = randomBytes(5).toString('hex');
    const folder = join(foldersOf(paths), id);
    mkdirSync(foldersOf(paths), { recursive: true, mode: 0o700 });
    mkdirSync(folder, { mode: 0o700 });
    const lock = await tryLock(jobFiles.lock(folder));
    // Somebody who sweeps may have been faster.
    if (lock !== undefined) return { id, folder, lock };
  }
}

/** Whether nobody works for a job any more. */
async function isFree(folder: string): Promise<boolean> {
  const lock = await tryLock(jobFiles.lock(folder), { shared: true, existing: true }).catch(
    () => undefined,
  );
  await lock?.release();
  return lock !== undefined;
}

/** All detached jobs that `owner` sees, the oldest first. */
export async function listJobs(
  paths: Pick<StatePaths, 'root'>,
  owner: Owner,
): Promise<ListedJob[]> {
  const jobs: ListedJob[] = [];
  for (const id of foldersIn(foldersOf(paths))) {
    const folder = join(foldersOf(paths), id);
    const record = readJob(folder);
    if (record === undefined || (owner !== undefined && record.owner !== owner.uid)) continue;
    const job = await stateOf(folder, record);
    if (job !== undefined) jobs.push(job);
  }
  return jobs.sort((a, b) => a.record.created - b.record.created);
}

async function stateOf(folder: string, before: JobRecord): Promise<ListedJob | undefined> {
  if (before.ended !== undefined) return { state: 'ended', folder, record: before };
  const free = await isFree(folder);
  if (!free) {
    return { state: before.began === undefined ? 'starting' : 'running', folder, record: before };
  }
  // It may have ended since it was read; one that did not begin is removed.
  const record = readJob(folder);
  if (record === undefined) return undefined;
  return { state: record.ended === undefined ? 'lost' : 'ended', folder, record };
}

function foldersIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/**
 * The job that an id, the beginning of one, or a name means, among those that `owner` sees; of several with the
 * name, the newest one. @throws KilnError E_NO_JOB
 */
export async function findJob(
  paths: Pick<StatePaths, 'root'>,
  owner: Owner,
  word: string,
): Promise<ListedJob> {
  return jobCalled(await listJobs(paths, owner), word);
}

/** The one of `listed` that a word means. @throws KilnError E_NO_JOB */
export function jobCalled(listed: readonly ListedJob[], word: string): ListedJob {
  const jobs = listed.filter(({ state }) => state !== 'starting');
  const named = jobs.findLast(({ record }) => record.name === word);
  if (named !== undefined) return named;
  const found = word === '' ? [] : jobs.filter(({ record }) => record.id.startsWith(word));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const why = found.length === 0 ? 'there is none' : `${found.length} begin so`;
  throw new KilnError('E_NO_JOB', `no job ${word === '' ? '""' : word}: ${why}`, {
    hint: '`kiln ps` lists those that go on, and those that have ended lately',
  });
}

/** What the caller calls a job. */
export function titleOf({ id, name }: JobRecord): string {
  return name ?? id;
}

/**
 * Removes jobs that nobody works for any more: all that ended before `maxAge`, milliseconds, and of each owner all
 * but the newest {@link KEPT_JOBS}. @returns their ids
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

/** Folders without a record, or that never began, whose maker has died. */
async function removeUnbegun(paths: Pick<StatePaths, 'root'>): Promise<void> {
  for (const id of foldersIn(foldersOf(paths))) {
    const folder = join(foldersOf(paths), id);
    const lock = await tryLock(jobFiles.lock(folder), { existing: true }).catch(() => undefined);
    if (lock === undefined) continue;
    if (readJob(folder)?.began === undefined) await removeTree(folder);
    await lock.release();
  }
}
