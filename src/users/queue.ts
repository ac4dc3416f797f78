import { addAbortListener } from 'node:events';
import { deferred } from '../promise.ts';

/** For all users together: root always finds a worker process (src/daemon/workers.ts). */
const TOGETHER = 32;

interface Waiting {
  readonly uid: number;
  readonly most: number;
  readonly begins: PromiseWithResolvers<boolean>;
}

export class UserJobs {
  readonly #running = new Map<number, number>();
  readonly #waiting = new Set<Waiting>();
  readonly #most: number;
  #together = 0;

  constructor(most = TOGETHER) {
    this.#most = most;
  }

  /**
   * Dispose of the result after the job. Undefined if `signal` is aborted before there is room; `waits` is
   * called if there is none at once.
   */
  async begin(
    { uid, most }: { readonly uid: number; readonly most: number },
    waits: () => void,
    signal?: AbortSignal | undefined,
  ): Promise<Disposable | undefined> {
    const at = this.tryBegin({ uid, most });
    if (at !== undefined) return at;
    waits();
    const waiting = { uid, most, begins: deferred<boolean>() };
    this.#waiting.add(waiting);
    const giveUp = () => {
      this.#waiting.delete(waiting);
      waiting.begins.resolve(false);
    };
    using _abort = signal && addAbortListener(signal, giveUp);
    return (await waiting.begins.promise) ? this.#begun(uid) : undefined;
  }

  /** Like begin(), for what does not wait: a job of the same user that waits already comes first. */
  tryBegin({ uid, most }: { readonly uid: number; readonly most: number }): Disposable | undefined {
    if (!this.#hasRoom(uid, most) || this.#waits(uid)) return undefined;
    this.#count(uid, 1);
    return this.#begun(uid);
  }

  #begun(uid: number): Disposable {
    const begun = new DisposableStack();
    begun.defer(() => {
      this.#count(uid, -1);
      this.#startWaiting();
    });
    return begun;
  }

  running(uid: number): number {
    return this.#running.get(uid) ?? 0;
  }

  #waits(uid: number): boolean {
    return [...this.#waiting].some((waiting) => waiting.uid === uid);
  }

  /** The last quarter of the places is for users who have none: a few cannot shut all others out. */
  #hasRoom(uid: number, most: number): boolean {
    const own = this.running(uid);
    const places = own === 0 ? this.#most : Math.ceil((this.#most * 3) / 4);
    return own < most && this.#together < places;
  }

  #count(uid: number, more: number): void {
    const count = this.running(uid) + more;
    if (count > 0) this.#running.set(uid, count);
    else this.#running.delete(uid);
    this.#together += more;
  }

  #startWaiting(): void {
    for (const waiting of this.#waiting) {
      if (!this.#hasRoom(waiting.uid, waiting.most)) continue;
      this.#waiting.delete(waiting);
      this.#count(waiting.uid, 1);
      waiting.begins.resolve(true);
    }
  }
}
