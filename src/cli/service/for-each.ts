import type { Caller } from '../caller/caller.ts';
import { printError } from '../output/errors.ts';

/**
 * Runs for all at once, and throws the first failure at the end, so that one failure does not stop the others.
 */
export async function forEach(
  names: readonly string[],
  act: (name: string, caller: Caller) => Promise<void>,
  caller: Caller,
): Promise<void> {
  report(await Promise.allSettled(names.map((name) => act(name, caller))), caller);
}

/** The same, one after the other. */
export async function inTurn(
  names: readonly string[],
  act: (name: string, caller: Caller) => Promise<void>,
  caller: Caller,
): Promise<void> {
  const results: PromiseSettledResult<void>[] = [];
  for (const name of names) results.push(...(await Promise.allSettled([act(name, caller)])));
  report(results, caller);
}

function report(results: readonly PromiseSettledResult<void>[], caller: Caller): void {
  const failures = results.filter((result) => result.status === 'rejected');
  if (failures.length === 0) return;
  for (const { reason } of failures.slice(1)) printError(reason, caller.stderr);
  throw failures[0]?.reason;
}
