/** Reading .rpm files: the parent's side. All parsing happens in confined children. */

import { availableParallelism } from 'node:os';
import { Handout } from '../confine/handout.ts';
import { mergeIterations } from '../confine/merge.ts';
import { runConfined } from '../confine/run.ts';
import { Standby } from '../confine/standby.ts';
import { defaultLimits } from '../confine/task.ts';
import { KilnError } from '../errors.ts';
import { awaitedLater } from '../promise.ts';
import { takeIdentity } from './check.ts';
import type { DigestDepth } from './digests.ts';
import { Feed, type ReadResult, type Take } from './feed.ts';
import type { RpmIdentity, RpmPackage } from './package.ts';
import type { ReadTaskInput } from './read-task.ts';
import { fromWire } from './unwire.ts';

/** A child costs 50 ms, a header 0.3 ms: fewer files than this do not earn another child. */
const FILES_PER_CHILD = 150;

/** Measured: of a thousand, a second child reads what it takes to start it, on two cores. */
const IDENTITIES_PER_CHILD = 1000;

/** One child may have to read all files of a call: so many of them get the time of a child. */
const FILES_PER_LIMIT = 500;

/** Headers handed over, and answered for, at a time. Of packages that are read whole, one is. */
const GROUP = 20;

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

/** The confined child of {@link ReadOptions}' `standby`: for files that will be there soon. */
export function standbyReader(): Standby {
  return Standby.start('rpm-read');
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

async function* readAll<Read>(
  files: readonly string[],
  options: ReadOptions,
  take: Take<Read>,
  identityOnly: boolean,
): AsyncGenerator<ReadResult<Read>, void, undefined> {
  const { standby, depth = 'header' } = options;
  const input: ReadTaskInput = { depth, keys: options.keys ?? [], identityOnly };
  const children = Math.min(
    options.concurrency ?? availableParallelism(),
    Math.ceil(files.length / (identityOnly ? IDENTITIES_PER_CHILD : FILES_PER_CHILD)),
  );
  if (children === 0) return;
  const shared = standby?.handout;
  const handout = shared ?? new Handout();
  const feed = new Feed(files, handout, depth === 'header' ? GROUP : 1);
  const stop = new AbortController();
  const outer = options.signal;
  const signal = outer === undefined ? stop.signal : AbortSignal.any([outer, stop.signal]);
  const read = {
    task: 'rpm-read',
    input,
    handout,
    standby,
    limits: { cpuSeconds: defaultLimits.cpuSeconds * Math.ceil(files.length / FILES_PER_LIMIT) },
    validate: (values: unknown) => feed.answered(values, take),
  };
  const messages = mergeIterations(
    (signal) => Array.from({ length: children }, () => runConfined({ ...read, signal })),
    signal,
  );
  // From here on the children are starting: meanwhile files are opened and handed over.
  let next = awaitedLater(messages.next());
  try {
    for (;;) {
      yield* feed.more();
      const { done, value } = await next;
      if (done === true) break;
      yield* feed.more();
      next = awaitedLater(messages.next());
      yield* value;
    }
    feed.assertDone();
  } finally {
    stop.abort();
    await messages.return();
    if (shared === undefined) handout[Symbol.dispose]();
  }
}

/** Reads one package. @throws what is wrong with it. */
export async function readRpm(file: string, options: ReadOptions = {}): Promise<RpmPackage> {
  for await (const result of readRpms([file], options)) {
    if (result.error !== undefined) throw result.error;
    return result.package;
  }
  throw new KilnError('E_CONFINE_PROTOCOL', `${file}: the confined child said nothing`);
}
