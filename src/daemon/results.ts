/**
 * Results of runs in the daemon's own thread: a worker copies, hashes and writes, which may take long, and
 * holds the list of artifacts, which may be long.
 */
import { addAbortListener } from 'node:events';
import type { Collection, CollectRequest } from '../artifacts/collect.ts';
import type { Owner } from '../artifacts/destination.ts';
import type { Artifact } from '../artifacts/manifest.ts';
import type { Warning } from '../artifacts/warning.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { flattenError, rebuildError } from '../host/confine/frame.ts';
import type { FlatError } from '../host/confine/task.ts';
import { type HeldPath, heldParts, heldPath } from '../host/files/held.ts';
import { takeCallersUmask } from '../host/process/own-umask.ts';
import { duplicate } from '../host/sockets/watch.ts';
import { ownResults, type Results } from '../jobs/run/collect.ts';
import { awaitedLater } from '../promise.ts';
import type { Result } from '../result/schema.ts';
import { resultsLostError, type Worker } from './worker-process.ts';
import type { Workers } from './workers.ts';

type Collecting = Pick<CollectRequest, 'patterns' | 'workdir' | 'reserved' | 'owner'>;

interface AskedResults {
  /** What kilnd calls the result directory. Its descriptor comes first, then that of the sandbox's root. */
  readonly directory: HeldPath;
  readonly collect?: Collecting;
  readonly write?: { readonly result: Result; readonly owner: Owner };
}

interface ResultsRequest extends AskedResults {
  readonly umask: number;
}

interface ResultsAnswer {
  readonly missing: readonly string[];
  readonly warnings: readonly Warning[];
  readonly error?: FlatError;
}

export class WorkerResults implements Results, Disposable {
  readonly #workers: Workers;
  readonly #umask: number;
  #worker: Worker | undefined;

  constructor(workers: Workers, umask: number) {
    this.#workers = workers;
    this.#umask = umask;
  }

  async collect(request: CollectRequest): Promise<Collection> {
    const { rootFd, patterns, workdir, destination, reserved, owner, signal, onWarning } = request;
    const collect = { patterns, workdir, reserved, owner };
    const asked = { directory: destination, collect };
    const { missing, warnings, error } = await this.#ask(asked, [rootFd], signal);
    for (const warning of warnings) onWarning?.(warning);
    if (error === undefined) return { artifacts: [], warnings, missing };
    signal?.throwIfAborted();
    throw rebuildError(error);
  }

  async write(directory: HeldPath, result: Result, owner: Owner): Promise<void> {
    const { error } = await this.#ask({ directory, write: { result, owner } });
    if (error !== undefined) throw rebuildError(error);
  }

  async #ask(
    request: AskedResults,
    more: readonly number[] = [],
    signal?: AbortSignal,
  ): Promise<ResultsAnswer> {
    const { fd = -1 } = heldParts(request.directory) ?? {};
    const text = JSON.stringify({ umask: this.#umask, ...request } satisfies ResultsRequest);
    // A worker may be dead already, though its end is not known yet. One that has collected holds the list.
    for (const isLast of [this.#worker !== undefined, true]) {
      this.#worker ??= await this.#workers.lend();
      const worker = this.#worker;
      signal?.throwIfAborted();
      using _stop = signal && addAbortListener(signal, () => worker.stop());
      const answer = await worker
        .ask(Buffer.from(text), [fd, ...more].map(duplicate))
        .catch((error: unknown) => {
          this.#worker = undefined;
          throw error;
        });
      if (answer !== undefined) return JSON.parse(answer.toString());
      this.#worker = undefined;
      if (isLast) break;
    }
    throw resultsLostError('before it was asked');
  }

  [Symbol.dispose](): void {
    this.#worker?.giveBack();
  }
}

export class ResultsServer {
  #artifacts: readonly Artifact[] = [];
  #stop = new AbortController();
  /** Resolves when the last request is answered. */
  answered: Promise<unknown> = Promise.resolve();

  /** Closes the descriptors. Never rejects. */
  answer(payload: Buffer, fds: readonly number[]): Promise<Buffer> {
    const answered = awaitedLater(
      this.#answer(payload, fds).finally(() => {
        for (const fd of fds) closeDescriptor(fd);
      }),
    );
    this.answered = answered;
    return answered;
  }

  async #answer(payload: Buffer, [fd = -1, rootFd]: readonly number[]): Promise<Buffer> {
    const { umask, directory, collect, write }: ResultsRequest = JSON.parse(payload.toString());
    const destination = heldPath(fd);
    takeCallersUmask(umask);
    const warnings: Warning[] = [];
    let answer: ResultsAnswer = { missing: [], warnings };
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    const onWarning = (warning: Warning) => void warnings.push(warning);
    try {
      if (collect !== undefined && rootFd !== undefined) {
        const collection = await ownResults.collect({
          ...{ ...collect, destination, rootFd, signal, onWarning },
        });
        this.#artifacts = collection.artifacts;
        answer = { ...answer, missing: collection.missing };
      }
      if (write !== undefined) {
        const { result, owner } = write;
        await ownResults.write(destination, { ...result, artifacts: [...this.#artifacts] }, owner);
      }
    } catch (error) {
      answer = { ...answer, error: flattenError(error) };
    }
    return Buffer.from(JSON.stringify(answer).replaceAll(destination, directory));
  }

  stop(): void {
    this.#stop.abort();
  }

  forget(): void {
    this.#artifacts = [];
  }
}
