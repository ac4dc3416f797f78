/** Workers do long work and give memory back by ending. A spare one has its code loaded. */

import { setTimeout as sleep } from 'node:timers/promises';
import { awaitedLater } from '../promise.ts';
import type { Call } from './call.ts';
import type { CommandLine, ReleasedClient } from './command-line.ts';
import { resultsLost, type TakeRoom, Worker, type WorkersOptions } from './worker-process.ts';

const WORKERS_MAX = 64;

/** How long workers may take to finish when the daemon ends, and then to die, ms. */
const LAST_JOBS = 10_000;
const LAST_MOMENTS = 2000;

export class Workers {
  readonly #options: WorkersOptions;
  readonly #all = new Set<Worker>();
  readonly #waiting: (() => void)[] = [];
  #spare: Worker | undefined;
  /** The last client's part of the environment: the next client is likely to be the same person. */
  #usual: Readonly<Record<string, string>> = {};
  #ended = false;

  constructor(options: WorkersOptions) {
    this.#options = options;
  }

  prepare(): void {
    if (this.#ended || this.#spare?.isFor(this.#usual) === true) return;
    this.#spare?.end();
    this.#spare = this.#start(this.#usual);
  }

  async serve(
    line: CommandLine,
    env: Readonly<Record<string, string>>,
    takeRoom?: TakeRoom,
  ): Promise<void> {
    const { uid } = line.identity;
    let client: ReleasedClient | undefined;
    // A spare worker may be dead already, though its end is not known yet.
    for (const isLast of [false, true]) {
      const gone = () => client === undefined && line.gone;
      await this.#work(env, gone, async (worker) => {
        const left = await worker.serve(client ?? line.release(), { uid, takeRoom, isLast });
        client = typeof left === 'boolean' ? undefined : left;
        return left === true;
      });
      if (client === undefined) return;
    }
  }

  async call(call: Call): Promise<void> {
    await this.#work(
      {},
      () => call.signal.aborted,
      (worker) => worker.call(call),
    );
  }

  async #work(
    env: Readonly<Record<string, string>>,
    gone: () => boolean,
    job: (worker: Worker) => Promise<boolean>,
  ): Promise<void> {
    while (this.#all.size >= WORKERS_MAX && this.#spare?.isFor(env) !== true) await this.#room();
    if (gone() || this.#ended) return;
    this.#usual = env;
    const spare = this.#spare?.isFor(env) === true ? this.#spare : undefined;
    if (spare !== undefined) this.#spare = undefined;
    const worker = spare ?? this.#start(env);
    let again = false;
    try {
      again = await job(worker);
    } finally {
      this.#put(worker, again);
    }
  }

  async lend(): Promise<Worker> {
    while (this.#all.size >= WORKERS_MAX && this.#spare === undefined) await this.#room();
    if (this.#ended) throw resultsLost('with its daemon');
    const worker = this.#spare ?? this.#start(this.#usual);
    this.#spare = undefined;
    worker.lend().then(
      (again) => this.#put(worker, again),
      () => undefined,
    );
    return worker;
  }

  #room(): Promise<void> {
    return new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #put(worker: Worker, again: boolean): void {
    // V8 has its code ready: it is faster than a spare one that has served nobody.
    const stays = this.#spare === undefined || worker.isFor(this.#usual);
    if (again && stays && !this.#ended) {
      this.#spare?.end();
      this.#spare = worker;
    } else worker.end();
    this.#waiting.shift()?.();
  }

  #start(env: Readonly<Record<string, string>>): Worker {
    const worker = new Worker(this.#options, env);
    this.#all.add(worker);
    const forget = () => {
      this.#all.delete(worker);
      if (this.#spare === worker) this.#spare = undefined;
      this.#waiting.shift()?.();
    };
    worker.over.then(forget, forget);
    return worker;
  }

  async end(): Promise<void> {
    this.#ended = true;
    const all = [...this.#all];
    for (const worker of all) worker.end();
    const deadline = setTimeout(() => {
      for (const worker of all) worker.kill();
    }, LAST_JOBS);
    // The kernel may not let one die: a file system of a user's can keep it for ever.
    const given = awaitedLater(sleep(LAST_JOBS + LAST_MOMENTS, undefined, { ref: false }));
    await Promise.race([Promise.all(all.map(({ over }) => over)), given]);
    clearTimeout(deadline);
  }
}
