import { awaitedLater } from '../promise.ts';
import { failedCall, LibvirtError } from './errors.ts';
import type { Libvirt, Pointer } from './functions.ts';
import { connectionError, lastError, loadLibvirt, runAsync } from './library.ts';
import { endOrphans } from './orphans.ts';

/**
 * How many libvirt calls one process has under way. Each blocks a thread of libuv's pool for as
 * long as the daemon takes; one thread is left to file access, which kiln does meanwhile. Measured
 * on two cores, three creates at once are as fast as eight (40/s); with UV_THREADPOOL_SIZE a bigger
 * machine gets more. Workers would need 15 ms each to start and gain nothing.
 */
const CONCURRENT_CALLS = Math.max(1, (Number(process.env.UV_THREADPOOL_SIZE) || 4) - 1);

/** How long a call may take before it is looked whether something holds it up for ever, ms. */
const SLOW_MS = 2000;

/** A daemon that was just seen running may end, idle, before it is connected to: once, not thrice. */
const OPEN_ATTEMPTS = 3;

/** Tells why a native call failed: returns the error to throw. Valid until the lease ends. */
export type Failure = (what: string) => LibvirtError;

/** Work on a native connection that nobody else uses meanwhile. */
export type Work<Result> = (
  library: Libvirt,
  connection: Pointer,
  failure: Failure,
) => Promise<Result>;

/** Makes a server reachable: called when a connection could not be opened, before another try. */
export type Reviver = () => Promise<void>;

let running = 0;
const waiting: (() => void)[] = [];

async function takeTurn(): Promise<void> {
  if (running < CONCURRENT_CALLS) running++;
  else await new Promise<void>((resolve) => waiting.push(resolve));
}

function endTurn(): void {
  const next = waiting.shift();
  if (next === undefined) running--;
  else next();
}

/**
 * Native connections to one URI, opened as calls overlap.
 *
 * libvirt keeps errors in thread-local storage and, as a copy, in the connection. Calls run on
 * pool threads, so the copy is what can be read, and it is exact only while a connection serves
 * one call at a time. A libvirtd also serves no more than five calls of one connection at once.
 */
export class ConnectionPool {
  readonly uri: string;
  readonly #revive: Reviver | undefined;
  readonly #idle: Pointer[] = [];
  readonly #leases = new Set<Promise<unknown>>();
  #closed = false;

  constructor(uri: string, revive?: Reviver) {
    this.uri = uri;
    this.#revive = revive;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Runs `work` on a connection of its own.
   *
   * A connection that broke since its last use is replaced. One that breaks during `work` fails
   * it with E_LIBVIRT_LOST, unless `repeatable`: then the work is done once more.
   *
   * @throws LibvirtError E_LIBVIRT_CLOSED, E_LIBVIRT_CONNECT, E_LIBVIRT_LOST, and what `work` throws
   */
  run<Result>(work: Work<Result>, repeatable = true): Promise<Result> {
    const refusal = this.#closed ? this.#refusal() : undefined;
    const lease = awaitedLater(
      refusal === undefined ? this.#run(work, repeatable) : Promise.reject(refusal),
    );
    this.#leases.add(lease);
    const forget = (): void => void this.#leases.delete(lease);
    lease.then(forget, forget);
    return lease;
  }

  async #run<Result>(work: Work<Result>, repeatable: boolean): Promise<Result> {
    const library = await loadLibvirt();
    await takeTurn();
    const slow = setInterval(() => endOrphans(), SLOW_MS);
    try {
      for (let attempt = 1; ; attempt++) {
        const connection = await this.#take(library, !repeatable);
        try {
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
      endTurn();
    }
  }

  #refusal(): LibvirtError {
    return new LibvirtError('E_LIBVIRT_CLOSED', `the connection to ${this.uri} is closed`);
  }

  /** An idle connection, or a new one. With `verify` an idle one has answered a moment ago. */
  async #take(library: Libvirt, verify: boolean): Promise<Pointer> {
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
      if (this.#revive === undefined) break;
      await this.#revive();
    }
    // The reasons of those failures stayed on the pool's threads: the last try is made on this one.
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

  /**
   * Waits for the calls under way; the native connections end with this process. (A daemon that has
   * just lost a domain takes 0.2 s to answer a close.)
   */
  async leave(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#leases]);
  }

  /** Waits for the calls under way, then closes. Domains made with `autodestroy` end here. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([...this.#leases]);
    if (this.#idle.length === 0) return;
    const library = await loadLibvirt();
    const connections = this.#idle.splice(0);
    const left = await Promise.all(
      connections.map((one) => runAsync(library.virConnectClose, one)),
    );
    // Every native object counts as a use of its connection: this one was never freed.
    if (left.some((uses) => uses > 0)) {
      throw new LibvirtError('E_LIBVIRT_LEAK', `a native object outlived its call to ${this.uri}`, {
        hint: 'this is a bug in kiln: please report it with what you did',
      });
    }
  }
}
