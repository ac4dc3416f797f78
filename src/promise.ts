/**
 * Promises that are kept and awaited later. Node ends a process when a promise has rejected and
 * nobody listens yet, even if somebody would have. `scripts/check-promises.ts` shows every promise
 * that is kept and not made by one of these.
 */

/**
 * Marks a promise as one that is awaited later: its rejection is thrown to whoever awaits it, and
 * ends no process before.
 */
export function awaitedLater<Kept extends Promise<unknown>>(promise: Kept): Kept {
  promise.catch(() => undefined);
  return promise;
}

/** `Promise.withResolvers`, with a promise that is {@link awaitedLater}. */
export function deferred<Value>(): PromiseWithResolvers<Value> {
  const made = Promise.withResolvers<Value>();
  made.promise.catch(() => undefined);
  return made;
}
