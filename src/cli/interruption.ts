import { KilnError } from '../errors.ts';

/** Aborts on the first SIGINT, SIGTERM or SIGHUP, until it is disposed of. */
export function listenForInterruption(): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const interrupt = () => controller.abort(new KilnError('E_INTERRUPTED', 'interrupted'));
  for (const signal of signals) process.once(signal, interrupt);
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const signal of signals) process.off(signal, interrupt);
    },
  };
}
