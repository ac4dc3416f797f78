/**
 * Promises that are kept and awaited later. Node ends a process when a promise has rejected and
 * nobody listens yet, even if somebody would have. `scripts/check/promises.ts` shows every promise
 * that is kept and not made by one of these.
 */

export function awaitedLater<Kept extends Promise<unknown>>(promise: Kept): Kept {
  promise.catch(() => undefined);
  return promise;
}

/** Tells whether a promise has ended, in either way. */
export function settled(promise: Promise<unknown>): () => boolean {
  let over = false;
  const end = () => {
    over = true;
  };
  promise.then(end, end);
  return () => over;
}

export function deferred<Value>(): PromiseWithResolvers<Value> {
  const made = Promise.withResolvers<Value>();
  made.promise.catch(() => undefined);
  return made;
}

/** Waits for all of them, whatever becomes of one, and then throws what the first of them threw. */
export async function allEnds<Value>(promises: Iterable<Promise<Value>>): Promise<Value[]> {
  const ends = await Promise.allSettled(promises);
  return ends.map((end) => {
    if (end.status === 'rejected') throw end.reason;
    return end.value;
  });
}
