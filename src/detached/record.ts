import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { type HeldLock, tryLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { treeUsage } from '../host/files/tree-usage.ts';
import { bytesFor, filesFor } from '../host/state/disk-watch.ts';
import { type Listed, longLived, onlyOne } from '../host/state/long-lived.ts';
import type { StatePaths, StateRoot } from '../host/state/paths.ts';
import { isNamed, type ListedSandbox, sandboxCalled } from '../sandbox/domain/sandbox-record.ts';

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
  paths: StateRoot,
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

export type ListedJob = Listed<JobRecord, JobState>;

type Owner = { readonly uid: number } | undefined;

const RECORD = { record: 'job.json', lock: 'lock' };

export const jobFiles = {
  results: (folder: string) => join(folder, 'results'),
  /** Short: a socket's path may have 107 bytes. */
  socket: ({ run }: StatePaths, id: string) => join(run, 'jobs', id),
};

function folderOfAll({ root }: StateRoot): string {
  return join(root, 'detached');
}

const jobFolders = longLived<JobRecord, JobState>({
  ...RECORD,
  fields: { id: 'string', command: 'array', created: 'number', tty: 'boolean' },
  damaged: () => 'nobody finds this job any more, and `kiln gc` removes it',
  stateOf,
});

export const writeJob = jobFolders.write;

/** Only root enters the folder, which is locked. */
export async function makeJobFolder(
  paths: StateRoot,
): Promise<{ readonly id: string; readonly folder: string; readonly lock: HeldLock }> {
  for (;;) {
    const id = randomBytes(5).toString('hex');
    const folder = join(folderOfAll(paths), id);
    mkdirSync(folderOfAll(paths), { recursive: true, mode: 0o700 });
    mkdirSync(folder, { mode: 0o700 });
    // Somebody who sweeps may have been faster, and have removed it.
    const lock = await tryLock(join(folder, RECORD.lock)).catch((error) => {
      if (!hasErrno(error, 'ENOENT')) throw error;
    });
    if (lock !== undefined) return { id, folder, lock };
  }
}

export async function listJobs(paths: StateRoot, owner: Owner): Promise<ListedJob[]> {
  return await jobFolders.list(folderOfAll(paths), owner);
}

function stateOf({ began, ended }: JobRecord, isHeld: boolean): JobState {
  if (ended !== undefined) return 'ended';
  if (!isHeld) return 'lost';
  return began === undefined ? 'starting' : 'running';
}

/**
 * By an id, the beginning of one, or a name (the newest that has it), among those that `owner` sees. @throws
 * KilnError E_NO_JOB
 */
export async function findJob(paths: StateRoot, owner: Owner, word: string): Promise<ListedJob> {
  return jobCalled(await listJobs(paths, owner), word, owner);
}

/**
 * Whether a word is a job's name, or so many letters of the beginning of its id. Root sees everybody's jobs, but names
 * mean the caller's own: a user could take one of root's.
 */
export function isMeant({ id, record }: ListedJob, word: string, owner: Owner, letters = 1) {
  const isNamed = record.name === word && record.owner === owner?.uid;
  return isNamed || (word.length >= letters && id.startsWith(word));
}

export function jobCalled(listed: readonly ListedJob[], word: string, owner: Owner): ListedJob {
  const jobs = listed.filter(({ state }) => state !== 'starting');
  const named = jobs.findLast((job) => isMeant(job, word, owner, Number.POSITIVE_INFINITY));
  if (named !== undefined) return named;
  return onlyOne('job', word, jobs);
}

/**
 * The sandbox that a word means, by its id or by that of a job, or by a job's name: what `--keep` left of one that has
 * ended can be entered and destroyed. @throws KilnError E_NO_SANDBOX; E_NO_JOB where the ids of several begin so
 */
export function sandboxMeant(
  listed: readonly ListedJob[],
  word: string,
  owner: Owner,
  sandboxes: readonly ListedSandbox[],
): ListedSandbox {
  const left = listed.filter(({ record }) => sandboxes.some(({ id }) => id === record.sandbox));
  if (sandboxes.some((sandbox) => isNamed(sandbox, word, owner)))
    return sandboxCalled(sandboxes, word, owner);
  // The beginning of a sandbox's own id means that one.
  const isFree = !sandboxes.some(({ id }) => id.startsWith(word));
  const isIt = (job: ListedJob) => isMeant(job, word, owner, isFree ? 1 : Number.POSITIVE_INFINITY);
  if (left.some(isIt)) {
    return onlyOne('sandbox', jobCalled(left, word, owner).record.sandbox ?? word, sandboxes);
  }
  const ended = isFree ? listed.findLast(isIt)?.record : undefined;
  if (ended?.ended === undefined) return onlyOne('sandbox', word, sandboxes);
  const title = titleOf(ended);
  throw new KilnError('E_NO_SANDBOX', `job ${title} ended with status ${ended.ended.status}`, {
    hint: `\`kiln logs ${title}\` prints its output, \`kiln results ${title} DIR\` copies its results`,
  });
}

export function titleOf({ id, name }: JobRecord): string {
  return name ?? id;
}

/**
 * Of those that nobody works for: all that ended before `maxAge`, ms, and all but the newest {@link
 * KEPT_JOBS} of each owner. Returns their ids.
 */
export async function removeOldJobs(
  paths: StateRoot,
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
  const hasBegun = (record: JobRecord | undefined) => record?.began !== undefined;
  if (owner === undefined) await jobFolders.sweep(folderOfAll(paths), hasBegun, removeTree);
  return removed;
}
