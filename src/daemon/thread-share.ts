/**
 * What callers have of the thread that serves all of them: the daemon's own. Messages of a user are read, calls begun
 * and output passed on as far as the user's share goes. The rest waits in the sockets and pipes that it comes by.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { deferred } from '../promise.ts';

/** Work for a user in one piece, ms: everybody else waits for it. */
const AT_ONCE = 2;

/** Whoever was heard within this time, ms, is likely to want more of the thread. */
const LATELY = 200;

/** The longest pause of a user, ms: a turn of the event loop may have been long for another reason. */
const PAUSE_MAX = 250;

const shares = new Map<number, ThreadShare>();

/** Of N callers heard lately, each user has 1/(2N) of the thread. Who is alone has all of it, and root is never limited. */
export class ThreadShare {
  readonly #isLimited: boolean;
  #spent = 0;
  #since: number | undefined;
  #heard = 0;
  readonly #waiting: (() => void)[] = [];

  private constructor(isLimited: boolean) {
    this.#isLimited = isLimited;
  }

  static of(uid: number): ThreadShare {
    const share = shares.get(uid) ?? new ThreadShare(uid !== 0);
    shares.set(uid, share);
    return share;
  }

  /** Counts what this turn of the event loop does from now on. */
  work(): void {
    const now = performance.now();
    this.#heard = now;
    if (this.#since !== undefined || !this.#isLimited) return;
    this.#since = now;
    setImmediate(() => {
      this.#spent += performance.now() - now;
      this.#since = undefined;
    });
  }

  /** Further work must wait for {@link room}. */
  get isUsedUp(): boolean {
    const running = this.#since === undefined ? 0 : performance.now() - this.#since;
    return this.#spent + running > AT_ONCE;
  }

  /** Resolves in a later turn: one in each turn, of those who wait for the same share. */
  async room(): Promise<void> {
    if (!this.#isLimited) return await nextTurn();
    const { promise, resolve } = deferred<void>();
    if (this.#waiting.push(resolve) === 1) this.#wait();
    await promise;
  }

  #wait(): void {
    setImmediate(() => {
      const pause = this.isUsedUp ? this.#pause() : 0;
      if (pause === 0) this.#goOn();
      else setTimeout(() => this.#goOn(), pause);
    });
  }

  #goOn(): void {
    this.work();
    this.#waiting.shift()?.();
    if (this.#waiting.length > 0) this.#wait();
  }

  #pause(): number {
    const spent = this.#spent;
    this.#spent = 0;
    const now = performance.now();
    const callers = [...shares.values()].filter((share) => now - share.#heard < LATELY).length;
    return callers < 2 ? 0 : Math.min(spent * (2 * callers - 1), PAUSE_MAX);
  }
}
