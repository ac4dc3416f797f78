import type { SandboxProcess } from '../sandbox/process.ts';

/** What listening to a command's output came to. */
export interface OutputListener {
  /** Throws what the listener threw, if it did. */
  rethrow(): void;
}

/**
 * Gives what a command writes to `take`, as it comes. A `take` that throws (a log that cannot be
 * written, a caller's hook) gets nothing more, and `kill` ends the command: an exception in an
 * event handler would end kiln itself.
 */
export function listenToOutput(
  process: Pick<SandboxProcess, 'stdout' | 'stderr'>,
  take: (chunk: Buffer, stream: 'stdout' | 'stderr') => void,
  kill: () => Promise<void>,
): OutputListener {
  let failure: { readonly error: unknown } | undefined;
  for (const stream of ['stdout', 'stderr'] as const) {
    process[stream].on('data', (chunk: Buffer) => {
      if (failure !== undefined) return;
      try {
        take(chunk, stream);
      } catch (error) {
        failure = { error };
        kill().catch(() => undefined);
      }
    });
  }
  return {
    rethrow: () => {
      if (failure !== undefined) throw failure.error;
    },
  };
}
