import type { Collection } from '../../artifacts/collect.ts';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import { KilnError } from '../../errors.ts';
import type { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { RunRequest } from './request.ts';
import { ownResults, type Results } from './results.ts';

/** What `--timeout` leaves for the artifacts at least, ms. */
const SHORTEST_COLLECTION = 60_000;

/** What came of collecting artifacts. */
interface Collected {
  readonly collection: Collection | undefined;
  /** What the command was for did not come out, or not all of it. */
  readonly failure: KilnError | undefined;
}

/** Collects the artifacts of a request. Loaded late: many runs have none. */
export type Collector = (
  sandbox: PlannedSandbox,
  workdir: string,
  warn: (warning: ArtifactWarning) => void,
  interrupted: AbortSignal | undefined,
) => Promise<Collected>;

/**
 * Checks the patterns of a request, for {@link Collector} to collect what they name, up to `bytes` of it.
 * Throws E_ARTIFACT_PATTERN.
 */
export async function collectorFor(
  request: Pick<RunRequest, 'artifacts' | 'resultDirectory' | 'caller' | 'time'>,
  results: Pick<Results, 'collect'> = ownResults,
  bytes?: number,
): Promise<Collector> {
  const limits = bytes === undefined ? {} : { bytes };
  const { artifacts: patterns, resultDirectory: destination, caller: owner } = request;
  const none = { collection: undefined, failure: undefined };
  if (destination === undefined || patterns.length === 0) return async () => none;
  const { checkPatterns, missingArtifacts } = await import('../../artifacts/collect.ts');
  checkPatterns(patterns);
  return async (sandbox, workdir, onWarning, interrupted) => {
    try {
      const signal = collectionEnd(request.time.timeout, interrupted);
      const wanted = { patterns, workdir, destination, owner, limits };
      const collection = await sandbox.withRoot((rootFd) =>
        results.collect({ ...wanted, rootFd, onWarning, signal }),
      );
      // With a sandbox's init its mounts go: what was read of its tree since then is not what was there.
      await sandbox.killAll();
      return { collection, failure: missingArtifacts(collection) };
    } catch (error) {
      if (error instanceof KilnError) return { ...none, failure: error };
      throw error;
    }
  };
}

/** When the time of a collection is over: the command's own once more, and a minute at least. */
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
  setTimeout(() => over.abort(error), time).unref();
  return AbortSignal.any([...signals, over.signal]);
}
