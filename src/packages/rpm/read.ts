/** Reading .rpm files: the parent's side. All parsing happens in confined children. */
import { availableParallelism } from 'node:os';
import { KilnError } from '../../errors.ts';
import { fileError, rebuildError } from '../../host/confine/frame.ts';
import { runQueue } from '../../host/confine/queue.ts';
import { defaultLimits, type HandedWork, MAX_FILES } from '../../host/confine/task.ts';
import type { DigestDepth } from './digests.ts';
import {
  openFile,
  type RpmIdentity,
  type RpmPackage,
  takeIdentity,
  takePackage,
} from './package.ts';
import type { ReadTaskInput } from './read-task.ts';

/** A child costs 50 ms, a header 0.3 ms: fewer files than this do not earn another child. */
const FILES_PER_CHILD = 150;

/** One child may have to read all files of a call: its time limit grows with each so many files. */
const FILES_PER_LIMIT = 500;

/** Groups of files queued at each child, so that it never waits for work. */
const AHEAD = 2;

export type ReadResult<Read = RpmPackage> = { readonly file: string; readonly index: number } & (
  | { readonly package: Read; readonly error?: never }
  | { readonly error: KilnError; readonly package?: never }
);

export interface ReadOptions {
  readonly depth?: DigestDepth;
  readonly keys?: readonly string[];
  readonly signal?: AbortSignal | undefined;
}

/**
 * Reads packages, several at a time, and yields each as it is done (`index` is its place in
 * `files`). A file that is broken or missing is a result, not an exception.
 * @throws KilnError E_KEYRING, E_CONFINE_START; the signal's reason.
 */
export function readRpms(
  files: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<ReadResult, void, undefined> {
  return readAll(files, options, takePackage, false);
}

export function readIdentities(
  files: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<ReadResult<RpmIdentity>, void, undefined> {
  return readAll(files, options, takeIdentity, true);
}

async function* readAll<Read>(
  files: readonly string[],
  options: ReadOptions,
  take: (value: unknown) => Read,
  identityOnly: boolean,
): AsyncGenerator<ReadResult<Read>, void, undefined> {
  const { depth = 'header', keys = [], signal } = options;
  const input: ReadTaskInput = { depth, keys, identityOnly };
  const children = Math.min(availableParallelism(), Math.ceil(files.length / FILES_PER_CHILD));
  const results = runQueue<Group, readonly ReadResult<Read>[]>({
    task: 'rpm-read',
    input,
    children,
    ahead: AHEAD,
    signal,
    works: inGroups(files, depth === 'header' ? MAX_FILES : 1),
    limits: { cpuSeconds: defaultLimits.cpuSeconds * Math.ceil(files.length / FILES_PER_LIMIT) },
    name: nameOf,
    open: openAll,
    take: (value, group) => takeAll(value, group, take),
    fail: (error, entries) => entries.map(({ file, index }) => ({ file, index, error })),
    split: (entries) => entries.map(({ file, index }) => [{ file, index }]),
  });
  for await (const some of results) yield* some;
}

interface Entry {
  readonly file: string;
  readonly index: number;
  error?: KilnError;
}

/** Headers are read so fast that to hand over each by itself took a fifth of the time. */
type Group = readonly Entry[];

async function* inGroups(
  files: readonly string[],
  size: number,
): AsyncGenerator<Group, void, undefined> {
  const entries = files.map((file, index) => ({ file, index }));
  for (let at = 0; at < files.length; at += size) yield entries.slice(at, at + size);
}

function nameOf(entries: Group): string {
  const [first, ...others] = entries.map(({ file }) => file);
  const last = others.at(-1);
  return last === undefined ? first! : `one of ${entries.length} files from ${first} to ${last}`;
}

function openAll(entries: Group): HandedWork {
  const fds: number[] = [];
  for (const entry of entries) {
    try {
      fds.push(openFile(entry.file));
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      entry.error = error;
    }
  }
  return { fds, input: null };
}

function takeAll<Read>(
  value: unknown,
  entries: Group,
  take: (value: unknown) => Read,
): ReadResult<Read>[] {
  const answers = value as { package?: unknown; error?: unknown }[];
  const opened = entries.filter(({ error }) => error === undefined);
  if (!Array.isArray(value) || answers.length !== opened.length) {
    throw new TypeError('it does not answer for each file');
  }
  let next = 0;
  return entries.map(({ file, index, error }) => {
    if (error !== undefined) return { file, index, error };
    const answer = answers[next++]!;
    if (answer.error === undefined) return { file, index, package: take(answer.package) };
    return { file, index, error: fileError(file, rebuildError(answer.error)) };
  });
}

export async function readRpm(file: string, options: ReadOptions = {}): Promise<RpmPackage> {
  for await (const result of readRpms([file], options)) {
    if (result.error !== undefined) throw result.error;
    return result.package;
  }
  throw new KilnError('E_CONFINE_PROTOCOL', `${file}: the confined child said nothing`);
}
