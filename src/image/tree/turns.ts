import { setImmediate as nextTurn } from 'node:timers/promises';
import { monotonicMs } from '../../kernel/clock.ts';

/** Work goes on for so long, milliseconds, before others (a box that starts, a signal) get their turn. */
const TURN_MS = 0.3;

/** Lets the rest of the process have turns while a lot of work is done in one go. */
export class Turns {
  #end = monotonicMs() + TURN_MS;

  /** To be called between two pieces of the work: waits if others are due. */
  async next(): Promise<void> {
    if (monotonicMs() < this.#end) return;
    await nextTurn();
    this.#end = monotonicMs() + TURN_MS;
  }
}
