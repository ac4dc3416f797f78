/** Limits how many jobs users have at a time. Without room a job waits; the first one that waits is next. */

/** For all users together: root always finds a worker process (src/daemon/workers.ts). */
const TOGETHER = 32;

interface Waiting {
  readonly uid: number;
  readonly most: number;
  readonly start: () => void;
}

export class UserJobs {
  readonly #running = new Map<number, number>();
  readonly #waiting = new Set<Waiting>();
  readonly #most: number;
  #together = 0;

  /** @param most of all users together */
  constructor(most = TOGETHER) {
    this.#most = most;
  }

  /**
   * Begins a job of a user who may have `most` at a time; dispose of the result after the job. Undefined if
   * `signal` is aborted before there is room; `waits` is called if there is none at once.
   */
  async begin(
    { uid, most }: { readonly uid: number; readonly most: number },
    waits: () => void,
    signal: AbortSignal,
  ): Promise<Disposable | undefined> {
    if (!this.#hasRoom(uid, most) || this.#othersWait(uid)) {
      waits();
      if (!(await this.#wait(uid, most, signal))) return undefined;
    } else this.#count(uid, 1);
    let over = false;
    return {
      [Symbol.dispose]: () => {
        if (over) return;
        over = true;
        this.#count(uid, -1);
        this.#startWaiting();
      },
    };
  }

  /** How many jobs a user has. */
  running(uid: number): number {
    return this.#running.get(uid) ?? 0;
  }

  /** Whether older jobs of the same user wait. */
  #othersWait(uid: number): boolean {
    return [...this.#waiting].some((waiting) => waiting.uid === uid);
  }

  #hasRoom(uid: number, most: number): boolean {
    return this.running(uid) < most && this.#together < this.#most;
  }

  #count(uid: number, more: number): void {
    const count = this.running(uid) + more;
    if (count > 0) this.#running.set(uid, count);
    else this.#running.delete(uid);
    this.#together += more;
  }

  /** Whether its turn came; then it counts as running. */
  #wait(uid: number, most: number, signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return Promise.resolve(false);
    return new Promise((resolve) => {
      const abort = () => {
        this.#waiting.delete(waiting);
        resolve(false);
      };
      const waiting: Waiting = {
        uid,
        most,
        start: () => {
          signal.removeEventListener('abort', abort);
          resolve(true);
        },
      };
      signal.addEventListener('abort', abort, { once: true });
      this.#waiting.add(waiting);
    });
  }

  #startWaiting(): void {
    for (const waiting of this.#waiting) {
      if (!this.#hasRoom(waiting.uid, waiting.most)) continue;
      this.#waiting.delete(waiting);
      this.#count(waiting.uid, 1);
      waiting.start();
    }
  }
}
