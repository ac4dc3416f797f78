/** Reading .rpm files: the parent's side. All parsing happens in confined children. */
import { closeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { rebuildError } from '../confine/flat-error.ts';
import { mergeIterations } from '../confine/merge.ts';
import { runConfined } from '../confine/run.ts';
import { Standby } from '../confine/standby.ts';
import { KilnError } from '../errors.ts';
import { takeIdentity } from './check.ts';
import type { DigestDepth } from './digests.ts';
import { MAX_FDS, openFile } from './open-files.ts';
import type { RpmIdentity, RpmPackage } from './package.ts';
import type { ReadTaskInput } from './read-task.ts';
import { fromWire } from './unwire.ts';

/** A child costs 50 ms, a header 0.3 ms: fewer files than this do not earn another child. */
const FILES_PER_CHILD = 150;

export interface ReadOptions {
  /** How much is read to check digests; default `header`. */
  readonly depth?: DigestDepth;
  /** Armored OpenPGP public keys; without any, every signature is `nokey`. */
  readonly keys?: readonly string[];
  readonly concurrency?: number;
  readonly signal?: AbortSignal | undefined;
  /** What {@link standbyReader} started: for the first files. */
  readonly standby?: Standby | undefined;
}

/** What came of one file. */
export type ReadResult<Read = RpmPackage> = { readonly file: string; readonly index: number } & (
  | { readonly package: Read; readonly error?: never }
  | { readonly error: KilnError; readonly package?: never }
);

/** The confined child of {@link ReadOptions}' `standby`: for files that will be there soon. */
export function standbyReader(): Standby {
  return Standby.start('rpm-read');
}

interface Item {
  readonly file: string;
  readonly index: number;
}

/**
 * Reads packages, several at a time, and yields each as it is done (`index` is its place in
 * `files`). A file that is broken or missing is a result, not an exception.
 * @throws KilnError E_KEYRING, E_CONFINE_START; the signal's reason.
 */
export async function* readRpms(
  files: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<ReadResult, void, undefined> {
  yield* readAll(files, options, fromWire, false);
}

/** Like {@link readRpms}, but reads none of the lists in the packages: several times faster. */
export async function* readIdentities(
  files: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<ReadResult<RpmIdentity>, void, undefined> {
  yield* readAll(files, options, takeIdentity, true);
}

/** Checks what a child sent. */
type Take<Read> = (value: unknown) => Read;

async function* readAll<Read>(
  files: readonly string[],
  options: ReadOptions,
  take: Take<Read>,
  identityOnly: boolean,
): AsyncGenerator<ReadResult<Read>, void, undefined> {
  const { standby } = options;
  const items = files.map((file, index): Item => ({ file, index }));
  const input: ReadTaskInput = {
    depth: options.depth ?? 'header',
    keys: options.keys ?? [],
    identityOnly,
  };
  const children = Math.min(
    options.concurrency ?? availableParallelism(),
    Math.ceil(files.length / (identityOnly ? FILES_PER_CHILD * 3 : FILES_PER_CHILD)),
  );
  const share = Math.ceil(files.length / Math.max(children, 1));
  const batches = mergeIterations((signal) => {
    const parts: Batches<Read>[] = [];
    for (let at = 0; at < items.length; at += share) {
      parts.push(readInTurn(items.slice(at, at + share), input, take, { signal, standby }));
    }
    return parts;
  }, options.signal);
  for await (const batch of batches) yield* batch;
}

/** Results as children send them, several at a time. */
type Batches<Read> = AsyncGenerator<readonly ReadResult<Read>[], void, undefined>;

/** Reads one package. @throws what is wrong with it. */
export async function readRpm(file: string, options: ReadOptions = {}): Promise<RpmPackage> {
  for await (const result of readRpms([file], options)) {
    if (result.error !== undefined) throw result.error;
    return result.package;
  }
  throw new KilnError('E_CONFINE_PROTOCOL', `${file}: the confined child said nothing`);
}

async function* readInTurn<Read>(
  items: readonly Item[],
  input: ReadTaskInput,
  take: Take<Read>,
  how: Pick<ReadOptions, 'signal' | 'standby'>,
): Batches<Read> {
  for (let at = 0; at < items.length; at += MAX_FDS) {
    yield* readBatch(items.slice(at, at + MAX_FDS), input, take, how);
  }
}

async function* readBatch<Read>(
  items: readonly Item[],
  input: ReadTaskInput,
  take: Take<Read>,
  how: Pick<ReadOptions, 'signal' | 'standby'>,
): Batches<Read> {
  const opened: Item[] = [];
  const fds: number[] = [];
  try {
    for (const item of items) {
      try {
        fds.push(openFile(item.file).fd);
        opened.push(item);
      } catch (error) {
        if (!(error instanceof KilnError)) throw error;
        yield [{ ...item, error }];
      }
    }
    if (fds.length === 0) return;
    yield* runConfined<readonly ReadResult<Read>[]>({
      task: 'rpm-read',
      input,
      fds,
      ...how,
      validate: (values) => {
        if (!Array.isArray(values)) throw new TypeError('it is no list');
        return values.map((value) => {
          const message = value as { index?: unknown; package?: unknown; error?: unknown };
          const item = opened[Number(message.index)];
          if (item === undefined) throw new TypeError(`there is no file ${message.index}`);
          if (message.error !== undefined) {
            return { ...item, error: aboutFile(item.file, rebuildError(message.error)) };
          }
          return { ...item, package: take(message.package) };
        });
      },
    });
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** The same error with the file's name in front. */
export function aboutFile(file: string, error: KilnError): KilnError {
  return new KilnError(error.code, `${file}: ${error.message}`, {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error.details === undefined ? {} : { details: error.details }),
    cause: error.cause,
  });
}
