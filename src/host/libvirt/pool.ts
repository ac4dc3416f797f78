import { defined } from '../../defined.ts';
import { awaitedLater, settled } from '../../promise.ts';
import type { Pointer } from '../calls/c-library.ts';
import { abandonCall } from '../calls/system-call.ts';
import { ownEnvironment } from '../process/own-process.ts';
import { type Awaited, patience, waitFor } from '../process/wait-for.ts';
import { endOrphans } from './controllers.ts';
import { failedCall, LibvirtError } from './errors.ts';
import { connectionError, type Libvirt, lastError, loadLibvirt, runAsync } from './library.ts';

/**
 * How many libvirt calls one process makes at once. Each blocks a thread of libuv's pool; one is left for
 * files. On two cores, three creates at once are as fast as eight (40/s); UV_THREADPOOL_SIZE allows more.
 */
const CONCURRENT_CALLS = Math.max(1, (Number(ownEnvironment.UV_THREADPOOL_SIZE) || 4) - 1);

/** Ms, after which kiln looks whether something blocks the call for ever. */
const SLOW_MS = 2000;

/** A daemon that was just seen may end, idle, before the connection is made, but not three times in a row. */
const OPEN_ATTEMPTS = 3;

type Failure = (what: string) => LibvirtError;

export type Work<Result> = (
  library: Libvirt,
  connection: Pointer,
  failure: Failure,
) => Promise<Result>;

export interface PoolOptions {
  readonly revive?: (() => Promise<void>) | undefined;
  readonly whom?: (() => Awaited) | undefined;
  /** Where the daemon's log is, as a hint names it. */
  readonly log?: string | undefined;
  /** How long the daemon may be silent, ms; {@link patience} by default. */
  readonly endAfter?: number | undefined;
}

let running = 0;
const waiting: (() => void)[] = [];

let lastEnd = 0;

async function takeSlot(): Promise<void> {
  if (running < CONCURRENT_CALLS) running++;
  else await new Promise<void>((resolve) => waiting.push(resolve));
}

function leaveSlot(): void {
  lastEnd = performance.now();
  const next = waiting.shift();
  if (next === undefined) running--;
  else next();
}

interface CallState {
  began: number | undefined;
  given: boolean;
}

/**
 * Native connections to one URI, opened as calls overlap.
 * libvirt keeps errors in thread-local storage and, as a copy, in the connection. Calls run on pool threads, so
 * the copy is read, which is exact only while a connection serves one call at a time. Also, a libvirtd serves
 * no more than five calls of one connection at once.
 */
export class ConnectionPool {
  readonly uri: string;
  readonly #options: PoolOptions;
  readonly #idle: Pointer[] = [];
  readonly #leases = new Set<Promise<unknown>>();
  #closed = false;
  #abandoned = 0;
  #silence: unknown;

  constructor(uri: string, options: PoolOptions = {}) {
    this.uri = uri;
    this.#options = options;
  }

  /**
   * Runs `work` on a connection of its own.
   *
   * A connection that broke since its last use is replaced. One that breaks during `work` fails it with
   * E_LIBVIRT_LOST, or repeats the work once if it is `repeatable`.
   *
   * If the daemon does not answer, the wait ends but the call goes on: `late` gets its result. Until the call
   * ends, every other call fails at once with the same error.
   * @throws LibvirtError E_LIBVIRT_CLOSED, E_LIBVIRT_CONNECT, E_LIBVIRT_LOST, and what `work` throws;
   *   KilnError E_LIBVIRT_SILENT
   */
  run<Result>(
    work: Work<Result>,
    repeatable = true,
    late?: (result: Result) => Promise<unknown>,
  ): Promise<Result> {
    const lease = awaitedLater(this.#patiently(work, repeatable, late));
    this.#leases.add(lease);
    const forget = (): void => void this.#leases.delete(lease);
    lease.then(forget, forget);
    return lease;
  }

  async #patiently<Result>(
    work: Work<Result>,
    repeatable: boolean,
    late: ((result: Result) => Promise<unknown>) | undefined,
  ): Promise<Result> {
    if (this.#closed) throw this.#refusal();
    if (this.#silence !== undefined) throw this.#silence;
    const call: CallState = { began: undefined, given: false };
    const done = awaitedLater(this.#run(work, repeatable, call));
    const waitStarted = performance.now();
    const isOver = settled(done);
    try {
      return await waitFor(done, {
        whom: () => this.#whom(),
        code: 'E_LIBVIRT_SILENT',
        hint: `\`kiln doctor\` checks whether it answers; its log is ${this.#options.log ?? 'its host’s'}`,
        ...defined({ endAfter: this.#options.endAfter }),
        // While a queued call waits, the ends of other calls show that the daemon is alive.
        since: () => call.began ?? Math.max(waitStarted, lastEnd),
      });
    } catch (error) {
      if (!isOver()) this.#abandon(done, call, error, late);
      throw error;
    }
  }

  #abandon<Result>(
    done: Promise<Result>,
    call: CallState,
    reason: unknown,
    late: ((result: Result) => Promise<unknown>) | undefined,
  ): void {
    call.given = true;
    this.#abandoned++;
    // A caller with a shorter patience, or an interrupted one, does not decide for the others.
    const quiet = performance.now() - (call.began ?? 0);
    if (quiet >= (this.#options.endAfter ?? patience())) this.#silence ??= reason;
    abandonCall(done);
    const end = (): void => {
      this.#abandoned--;
      if (this.#abandoned === 0) this.#silence = undefined;
    };
    done.then((result) => {
      end();
      if (late !== undefined && !this.#closed) late(result).catch(() => undefined);
    }, end);
  }

  #whom(): Awaited {
    return this.#options.whom?.() ?? { name: `libvirt (${this.uri})` };
  }

  async #run<Result>(work: Work<Result>, repeatable: boolean, call: CallState): Promise<Result> {
    const library = await loadLibvirt();
    await takeSlot();
    const slow = setInterval(() => endOrphans(), SLOW_MS);
    try {
      for (let attempt = 1; ; attempt++) {
        if (call.given) throw this.#refusal();
        call.began = performance.now();
        const connection = await this.#take(library, !repeatable, call);
        try {
          if (call.given) throw this.#refusal();
          return await work(library, connection, (what) =>
            failedCall(what, connectionError(library, connection), this.uri),
          );
        } catch (error) {
          if (library.virConnectIsAlive(connection) === 1) throw error;
          if (repeatable && attempt === 1) continue;
          throw new LibvirtError('E_LIBVIRT_LOST', `the connection to ${this.uri} broke`, {
            cause: error,
            hint: 'the libvirt daemon went away during the call; call again',
          });
        } finally {
          await this.#give(library, connection);
        }
      }
    } finally {
      clearInterval(slow);
      leaveSlot();
    }
  }

  #refusal(): LibvirtError {
    return new LibvirtError('E_LIBVIRT_CLOSED', `the connection to ${this.uri} is closed`);
  }

  async #take(library: Libvirt, verify: boolean, call: CallState): Promise<Pointer> {
    for (let idle = this.#idle.pop(); idle !== undefined; idle = this.#idle.pop()) {
      const alive = verify
        ? (await runAsync(library.virConnectGetLibVersion, idle, new BigUint64Array(1))) === 0
        : library.virConnectIsAlive(idle) === 1;
      if (alive) return idle;
      await runAsync(library.virConnectClose, idle);
    }
    for (let attempt = 0; attempt < OPEN_ATTEMPTS; attempt++) {
      const opened = await runAsync(library.virConnectOpen, this.uri);
      if (opened !== null) return opened;
      if (this.#options.revive === undefined || call.given) break;
      call.began = Number.POSITIVE_INFINITY;
      await this.#options.revive();
      call.began = performance.now();
    }
    // The reasons of the earlier failures stayed on pool threads. Try on this thread, to get the reason.
    const last = library.virConnectOpen(this.uri);
    if (last !== null) return last;
    const reason = lastError(library);
    throw new LibvirtError(
      'E_LIBVIRT_CONNECT',
      `cannot connect to ${this.uri}: ${reason?.message ?? 'no reason given'}`,
      { libvirt: reason, hint: 'kiln doctor tells what is missing' },
    );
  }

  async #give(library: Libvirt, connection: Pointer): Promise<void> {
    if (library.virConnectIsAlive(connection) === 1) this.#idle.push(connection);
    else await runAsync(library.virConnectClose, connection);
  }

  /** Leaves the connections to the end of the process: a daemon may take 0.2 s to answer a close. */
  async leave(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#leases]);
  }

  async close(): Promise<void> {
    await this.leave();
    if (this.#idle.length === 0 || this.#silence !== undefined) return;
    const library = await loadLibvirt();
    const connections = this.#idle.splice(0);
    const goodbyes = awaitedLater(
      Promise.all(connections.map((one) => runAsync(library.virConnectClose, one))),
    );
    let left: number[];
    try {
      left = await waitFor(goodbyes, {
        whom: () => this.#whom(),
        code: 'E_LIBVIRT_SILENT',
        hint: '`kiln doctor` checks whether it answers',
      });
    } catch {
      abandonCall(goodbyes);
      return;
    }
    // Every native object is a use of its connection: one that is left was not freed.
    if (left.some((uses) => uses > 0)) {
      throw new LibvirtError('E_LIBVIRT_LEAK', `a native object outlived its call to ${this.uri}`, {
        hint: 'this is a bug in kiln: please report it with what you did',
      });
    }
  }
}
