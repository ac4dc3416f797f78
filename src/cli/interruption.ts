import { KilnError } from '../errors.ts';
import { type Caller, processCaller } from './caller.ts';

/** Aborts on the first SIGINT, SIGTERM or SIGHUP, until it is disposed of. */
export function listenForInterruption(
  caller: Caller = processCaller,
): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const listening = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], () =>
    controller.abort(new KilnError('E_INTERRUPTED', 'interrupted')),
  );
  return { signal: controller.signal, [Symbol.dispose]: () => listening[Symbol.dispose]() };
}
