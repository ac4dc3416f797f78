import { KilnError } from '../../errors.ts';
import { endWaits } from '../../host/process/wait-for.ts';
import type { Caller } from './caller.ts';

/** Aborts on the first SIGINT, SIGTERM or SIGHUP, until disposed of. */
export function listenForInterruption(
  caller: Caller,
): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const listening = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], () => {
    const reason = new KilnError('E_INTERRUPTED', 'interrupted');
    controller.abort(reason);
    // This process serves nobody else.
    if (caller.isOnly) endWaits(reason);
  });
  return { signal: controller.signal, [Symbol.dispose]: () => listening[Symbol.dispose]() };
}
