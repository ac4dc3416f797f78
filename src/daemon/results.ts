/**
 * Results of runs in the daemon's own thread: a worker copies, hashes and writes, which may take long, and
 * holds the list of artifacts, which may be long.
 */
import { addAbortListener } from 'node:events';
import type { Collection, CollectRequest } from '../artifacts/collect.ts';
import type { Owner } from '../artifacts/destination.ts';
import type { Artifact } from '../artifacts/manifest.ts';
import type { Warning } from '../artifacts/warning.ts';
import { flattenError, rebuildError } from '../host/confine/frame.ts';
import type { FlatError } from '../host/confine/task.ts';
import { takeCallersUmask } from '../host/process/own-umask.ts';
import { duplicate } from '../host/sockets/watch.ts';
import { ownResults, type Results } from '../jobs/run/collect.ts';
import type { Result } from '../result/schema.ts';
import { resultsLost, type Worker } from './worker-process.ts';
import type { Workers } from './workers.ts';

type Collecting = Pick<
  CollectRequest,
  'patterns' | 'workdir' | 'destination' | 'reserved' | 'owner'
>;

interface ResultsRequest {
  readonly umask: number;
  readonly collect?: Collecting;
  readonly write?: {
    readonly directory: string;
    readonly result: Result;
    readonly owner: Owner;
  };
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
    const collect = { patterns, workdir, destination, reserved, owner };
    const root = () => [duplicate(rootFd)];
    const { missing, warnings, error } = await this.#ask({ collect }, root, signal);
    for (const warning of warnings) onWarning?.(warning);
    if (error === undefined) return { artifacts: [], warnings, missing };
    signal?.throwIfAborted();
    throw rebuildError(error);
  }

  async write(directory: string, result: Result, owner: Owner): Promise<void> {
    const write = { directory, result, owner };
    const { error } = await this.#ask({ write });
    if (error !== undefined) throw rebuildError(error);
  }

  async #ask(
    request: Omit<ResultsRequest, 'umask'>,
    descriptors: () => readonly number[] = () => [],
    signal?: AbortSignal,
  ): Promise<ResultsAnswer> {
    const text = JSON.stringify({ umask: this.#umask, ...request } satisfies ResultsRequest);
    // A worker may be dead already, though its end is not known yet. One that has collected holds the list.
    for (const isLast of [this.#worker !== undefined, true]) {
      this.#worker ??= await this.#workers.lend();
      const worker = this.#worker;
      signal?.throwIfAborted();
      using _stop = signal && addAbortListener(signal, () => worker.stop());
      const answer = await worker.ask(Buffer.from(text), descriptors()).catch((error: unknown) => {
        this.#worker = undefined;
        throw error;
      });
      if (answer !== undefined) return JSON.parse(answer.toString());
      this.#worker = undefined;
      if (isLast) break;
    }
    throw resultsLost('before it was asked');
  }

  [Symbol.dispose](): void {
    this.#worker?.giveBack();
  }
}

export class ResultsServer {
  #artifacts: readonly Artifact[] = [];
  #stop = new AbortController();

  /** Never rejects. */
  async answer(payload: Buffer, rootFd: number | undefined): Promise<Buffer> {
    const { umask, collect, write }: ResultsRequest = JSON.parse(payload.toString());
    takeCallersUmask(umask);
    const warnings: Warning[] = [];
    let answer: ResultsAnswer = { missing: [], warnings };
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    const onWarning = (warning: Warning) => void warnings.push(warning);
    try {
      if (collect !== undefined && rootFd !== undefined) {
        const collection = await ownResults.collect({ ...collect, rootFd, signal, onWarning });
        this.#artifacts = collection.artifacts;
        answer = { ...answer, missing: collection.missing };
      }
      if (write !== undefined) {
        const { directory, result, owner } = write;
        await ownResults.write(directory, { ...result, artifacts: [...this.#artifacts] }, owner);
      }
    } catch (error) {
      answer = { ...answer, error: flattenError(error) };
    }
    return Buffer.from(JSON.stringify(answer));
  }

  stop(): void {
    this.#stop.abort();
  }

  forget(): void {
    this.#artifacts = [];
  }
}
