import { setTimeout as sleep } from 'node:timers/promises';
import { awaitedLater } from '../promise.ts';
import type { Lull } from './lull.ts';

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
