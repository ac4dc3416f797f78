/** Workers do long work and give memory back by ending. A spare one has its code loaded. */

import { setTimeout as sleep } from 'node:timers/promises';
import { awaitedLater } from '../promise.ts';
import type { Call } from './call.ts';
import type { CommandLine, ReleasedClient } from './command-line.ts';
import { idsOf, type PeerIdentity } from './peer.ts';
import { resultsLostError, type TakeRoom, Worker, type WorkersOptions } from './worker-process.ts';

const WORKERS_MAX = 64;

/** How long workers may take to finish when the daemon ends, and then to die, ms. */
const LAST_JOBS = 10_000;
const LAST_MOMENTS = 2000;

/** How long a worker waits for the user it has served, ms: what it takes counts as that user's. */
const KEPT = 10_000;

/** So long after a job's begin, ms, nothing takes processors from it. */
const BEGINNING = 5000;

export class Workers {
  readonly #options: WorkersOptions;
  readonly #all = new Set<Worker>();
  readonly #waiting: (() => void)[] = [];
  #spare: Worker | undefined;
  /** Has served the last user: nobody else gets it. */
  #users:
    | { readonly worker: Worker; readonly ids: string; readonly timer: NodeJS.Timeout }
    | undefined;
  /** The last client's part of the environment: the next client is likely to be the same person. */
  #usual: Readonly<Record<string, string>> = {};
  #ended = false;

  constructor(options: WorkersOptions) {
    this.#options = options;
  }

  /** A worker has just begun a job, such as making an image. */
  get hasBegun(): boolean {
    const since = performance.now() - BEGINNING;
    return [...this.#all].some(({ begun }) => begun > since);
  }

  prepare(): void {
    if (this.#ended || this.#spare?.isFor(this.#usual) === true) return;
    this.#spare?.end();
    this.#spare = this.#start(this.#usual);
  }

  async giveLine(
    line: CommandLine,
    env: Readonly<Record<string, string>>,
    takeRoom?: TakeRoom,
  ): Promise<void> {
    const { identity } = line;
    const { uid } = identity;
    let client: ReleasedClient | undefined;
    // A spare worker may be dead already, though its end is not known yet, and so may the one that waits for this user.
    for (const isLast of [false, false, true]) {
      const gone = () => client === undefined && line.gone;
      await this.#work(identity, env, gone, async (worker) => {
        const left = await worker.giveLine(client ?? line.release(), { uid, takeRoom, isLast });
        client = typeof left === 'boolean' ? undefined : left;
        return left === true;
      });
      if (client === undefined) return;
    }
  }

  async giveCall(call: Call): Promise<void> {
    const { identity } = call.head;
    let isServed = false;
    // As in giveLine().
    for (const isLast of [false, false, true]) {
      const gone = () => call.signal.aborted;
      await this.#work(identity, {}, gone, async (worker) => {
        const again = await worker.giveCall(call, isLast);
        isServed = again !== undefined;
        return again === true;
      });
      if (isServed || gone()) return;
    }
  }

  async #work(
    identity: PeerIdentity,
    env: Readonly<Record<string, string>>,
    gone: () => boolean,
    job: (worker: Worker) => Promise<boolean>,
  ): Promise<void> {
    const ids = identity.uid === 0 ? undefined : idsOf(identity);
    let spare: Worker | undefined;
    for (;;) {
      if (gone() || this.#ended) {
        // Whoever waits behind it may have what it was woken for.
        this.#waiting.shift()?.();
        return;
      }
      spare = this.#takeSpare(ids, env);
      if (spare !== undefined || this.#all.size < WORKERS_MAX) break;
      await this.#room();
    }
    this.#usual = env;
    const worker = spare ?? this.#start(env);
    let again = false;
    try {
      again = await job(worker);
    } finally {
      this.#put(worker, again, ids);
    }
  }

  #takeSpare(ids: string | undefined, env: Readonly<Record<string, string>>): Worker | undefined {
    if (ids !== undefined && this.#users?.ids === ids && this.#users.worker.isFor(env)) {
      const { worker, timer } = this.#users;
      clearTimeout(timer);
      this.#users = undefined;
      return worker;
    }
    if (this.#spare?.isFor(env) !== true) return undefined;
    const spare = this.#spare;
    this.#spare = undefined;
    return spare;
  }

  async lend(): Promise<Worker> {
    while (this.#all.size >= WORKERS_MAX && this.#spare === undefined) await this.#room();
    if (this.#ended) throw resultsLostError('with its daemon');
    const worker = this.#spare ?? this.#start(this.#usual);
    this.#spare = undefined;
    worker.lend().then(
      (again) => this.#put(worker, again),
      () => undefined,
    );
    return worker;
  }

  #room(): Promise<void> {
    this.#endUsers();
    return new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #put(worker: Worker, again: boolean, ids?: string): void {
    if (again && ids !== undefined && !this.#ended) {
      this.#endUsers();
      const timer = setTimeout(() => this.#endUsers(), KEPT);
      this.#users = { worker, ids, timer };
      this.#waiting.shift()?.();
      return;
    }
    // V8 has its code ready: it is faster than a spare one that has served nobody.
    const stays = this.#spare === undefined || worker.isFor(this.#usual);
    if (again && ids === undefined && stays && !this.#ended) {
      this.#spare?.end();
      this.#spare = worker;
    } else worker.end();
    this.#waiting.shift()?.();
  }

  #endUsers(): void {
    clearTimeout(this.#users?.timer);
    this.#users?.worker.end();
    this.#users = undefined;
  }

  #start(env: Readonly<Record<string, string>>): Worker {
    const worker = new Worker(this.#options, env);
    this.#all.add(worker);
    const forget = () => {
      this.#all.delete(worker);
      if (this.#spare === worker) this.#spare = undefined;
      if (this.#users?.worker === worker) this.#endUsers();
      this.#waiting.shift()?.();
      this.#options.ended();
    };
    worker.over.then(forget, forget);
    return worker;
  }

  async end(): Promise<void> {
    this.#ended = true;
    this.#endUsers();
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
