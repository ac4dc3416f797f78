/**
 * Several runs in one process: whoever waits for a command to start goes before the end of boxes
 * whose result is known, for which nobody waits.
 */

/** The longest that an end is put off, ms: without pause between starts boxes must end, too. */
const LONGEST = 100;

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

let starting = 0;
const waiting = new Set<() => void>();

/** From now on until it is disposed of, a command is about to start. */
export function beginStart(): Disposable {
  let mine = 1;
  starting += mine;
  return {
    [Symbol.dispose]: () => {
      starting -= mine;
      mine = 0;
      if (starting === 0) for (const resume of waiting) resume();
    },
  };
}

/** Ends a box once whoever waits for its result has it and nothing is starting. */
export async function endLater(end: () => Promise<void>): Promise<void> {
  await nextTurn();
  if (starting > 0) {
    await new Promise<void>((resolve) => {
      const resume = () => {
        clearTimeout(timer);
        waiting.delete(resume);
        resolve();
      };
      const timer = setTimeout(resume, LONGEST);
      waiting.add(resume);
    });
  }
  await end();
}
