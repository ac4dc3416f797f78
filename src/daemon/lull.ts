import { setTimeout as sleep } from 'node:timers/promises';
import { awaitedLater } from '../promise.ts';

/** Milliseconds without a start, after which there is time for what can wait. */
const AFTER = 30;
/** What was begun and has not told that it has started is no noise any more after this time, ms. */
const NOISE = 1000;
/** Where something is always begun, the listener is called all the same after this time, ms. */
const MOST = 300;

/** Calls a listener when nothing starts, or, not in a lull then, when something has always started for long. */
export class Lull implements Disposable {
  #listener: (isLull: boolean) => void;
  #starting = 0;
  #timer: NodeJS.Timeout | undefined;
  #latest: NodeJS.Timeout | undefined;
  readonly #pauses: (() => void)[] = [];

  constructor(listener: (isLull: boolean) => void) {
    this.#listener = listener;
    this.#wait();
  }

  /** Something starts, until disposed of. */
  begin(): Disposable {
    this.#starting++;
    clearTimeout(this.#timer);
    this.#latest ??= setTimeout(() => this.#act(false), MOST);
    let counts = true;
    const over = () => {
      if (counts) this.#starting--;
      counts = false;
      if (this.#starting === 0) this.#endPauses();
      // Also after a long command line, which may have taken a sandbox late.
      this.#wait();
    };
    const started = setTimeout(over, NOISE);
    return {
      [Symbol.dispose]: () => {
        clearTimeout(started);
        over();
      },
    };
  }

  /** For what would hold up whoever begins something. Resolves at once where nothing is begun. */
  async pause(): Promise<void> {
    if (this.#starting === 0 || this.#starting === Number.POSITIVE_INFINITY) return;
    await new Promise<void>((resolve) => this.#pauses.push(resolve));
  }

  #endPauses(): void {
    for (const end of this.#pauses.splice(0)) end();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#latest);
    this.#starting = Number.POSITIVE_INFINITY;
    this.#listener = () => undefined;
    this.#endPauses();
  }

  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#starting === 0) this.#timer = setTimeout(() => this.#act(true), AFTER);
  }

  #act(isLull: boolean): void {
    clearTimeout(this.#latest);
    this.#latest = undefined;
    this.#endPauses();
    this.#listener(isLull);
  }
}

/** Sandboxes of the daemon's own commands, which are removed once nothing starts: their callers wait no longer. */
export class Removals {
  readonly #lull: Lull;
  readonly #failed: (error: unknown) => void;
  readonly #running = new Set<Promise<void>>();

  constructor(lull: Lull, failed: (error: unknown) => void) {
    this.#lull = lull;
    this.#failed = failed;
  }

  later(remove: () => Promise<void>): void {
    const over = awaitedLater(
      this.#lull
        .pause()
        .then(remove)
        .catch(this.#failed)
        .finally(() => this.#running.delete(over)),
    );
    this.#running.add(over);
  }

  /** Resolves when all are over, or after `most` milliseconds. */
  async done(most: number): Promise<void> {
    await Promise.race([Promise.allSettled(this.#running), sleep(most, undefined, { ref: false })]);
  }
}
