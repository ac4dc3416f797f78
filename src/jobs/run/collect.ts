import {
  type Collection,
  type CollectRequest,
  collectArtifacts,
  missingArtifacts,
} from '../../artifacts/collect.ts';
import type { Owner } from '../../artifacts/destination.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { LONGEST_WAIT } from '../../host/process/wait-for.ts';
import { refuseLowDisk } from '../../host/state/disk-watch.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { writeResult } from '../../report/write.ts';
import type { Result } from '../../result/schema.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { openArtifactTree } from './artifact-tree.ts';
import type { RunRequest } from './request.ts';

/** What `--timeout` leaves for the artifacts at least, ms. */
const SHORTEST_COLLECTION = 60_000;

interface Collected {
  readonly collection: Collection | undefined;
  readonly failure: KilnError | undefined;
}

/** What kiln itself writes into the result directory of a run. */
const OWN_FILES = ['result.json', 'report.html'];

interface CollectOptions {
  readonly paths: StatePaths;
  readonly workdir: string;
  /** Bytes that may be collected. */
  readonly bytes: number | undefined;
  /** Further files of kiln's own in the result directory. */
  readonly reserved: readonly string[] | undefined;
  readonly warn: (warning: Warning) => void;
  readonly interrupted: AbortSignal | undefined;
  readonly results: Results | undefined;
}

/** Collects the artifacts of a request, if it has any, and ends what still runs in the sandbox. */
export async function collect(
  sandbox: PlannedSandbox,
  { artifacts: patterns, resultDirectory: destination, caller: owner, timeout }: RunRequest,
  { paths, workdir, bytes, reserved = [], warn, interrupted, results = ownResults }: CollectOptions,
): Promise<Collected> {
  const none = { collection: undefined, failure: undefined };
  if (destination === undefined || patterns.length === 0) return none;
  try {
    // Root decides which disk of root's is filled.
    const room =
      bytes === undefined ? undefined : (size: number) => refuseLowDisk(destination, size);
    const signal = collectionEnd(timeout, interrupted);
    const wanted = { paths, patterns, workdir, bytes, signal, warn };
    await using tree = await openArtifactTree(sandbox.tree, wanted);
    const collection = await results.collect({
      rootFd: tree.rootFd,
      patterns: tree.patterns,
      workdir,
      destination,
      reserved: [...OWN_FILES, ...reserved],
      owner,
      limits: defined({ bytes }),
      ...(room && { room }),
      signal,
      onWarning: warn,
    });
    // With a sandbox's init its mounts go: what was read of its tree since then is not what was there.
    await sandbox.killAll();
    return { collection, failure: missingArtifacts(collection) };
  } catch (error) {
    if (error instanceof KilnError) return { ...none, failure: error };
    throw error;
  }
}

function collectionEnd(
  timeout: number | undefined,
  interrupted: AbortSignal | undefined,
): AbortSignal {
  const signals = interrupted === undefined ? [] : [interrupted];
  if (timeout === undefined) return AbortSignal.any(signals);
  const time = Math.max(timeout, SHORTEST_COLLECTION);
  const over = new AbortController();
  const error = new KilnError(
    'E_ARTIFACT_TIMEOUT',
    `the artifacts could not be collected within ${time / 1000} s`,
    { hint: 'give a longer --timeout: as long again, and a minute at least, is for the artifacts' },
  );
  setTimeout(() => over.abort(error), Math.min(time, LONGEST_WAIT)).unref();
  return AbortSignal.any([...signals, over.signal]);
}

export interface Results {
  /** The list of artifacts, which may be long, may stay with the process that collects. */
  collect(request: CollectRequest): Promise<Collection>;
  write(directory: HeldPath, result: Result, owner: Owner): Promise<void>;
}

export const ownResults: Results = {
  collect: collectArtifacts,
  write: async (directory, result, owner) => {
    await writeResult(directory, result, owner);
  },
};
