/**
 * Several runs in one process: whoever waits for a command to start, or for one that may be over at any
 * moment, goes before the end of boxes whose result is known, for which nobody waits.
 */
import { monotonicMs } from '../kernel/clock.ts';

/** The longest that an end is put off, ms: without pause between runs boxes must end, too. */
const LONGEST = 100;

/** How long a command may run, ms, before nobody counts on its result at any moment. */
const SOON = 10;

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A run whose result is near. It is over when it is disposed of. */
export interface NearResult extends Disposable {
  /** Its command runs: from now on it is near for a moment only. */
  started(): void;
}

/** Until when each is near, by the monotonic clock. */
const near = new Map<NearResult, number>();
const waiting = new Set<() => void>();

/** From now on a command is about to start. */
export function beginRun(): NearResult {
  const result: NearResult = {
    started: () => {
      near.set(result, monotonicMs() + SOON);
      for (const resume of waiting) resume();
    },
    [Symbol.dispose]: () => {
      near.delete(result);
      for (const resume of waiting) resume();
    },
  };
  near.set(result, Number.POSITIVE_INFINITY);
  return result;
}

/** Ends a box once whoever waits for its result has it and no other result is near. */
export async function endLater(end: () => Promise<void>): Promise<void> {
  await nextTurn();
  const latest = monotonicMs() + LONGEST;
  while (near.size > 0) {
    const now = monotonicMs();
    const until = Math.min(latest, Math.max(...near.values()));
    if (now >= until) break;
    await changeOr(until - now);
  }
  await end();
}

/** Waits until a result is there, or known to be nearer, or for so many milliseconds. */
async function changeOr(milliseconds: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const resume = () => {
      clearTimeout(timer);
      waiting.delete(resume);
      resolve();
    };
    const timer = setTimeout(resume, milliseconds);
    waiting.add(resume);
  });
}
