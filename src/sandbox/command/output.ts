import type { SandboxProcess } from './process.ts';

/** Bytes of a command's output that are kept. */
export const KEPT = 4 << 20;

/** Characters that are kept of one line: a linker's command may have megabytes. */
const LINE_LENGTH = 4096;

/** Lines that are kept: enough for the first error of a parallel make. */
const LINES = 2000;

export class Output {
  readonly #limit: number;
  #chunks: Buffer[] = [];
  #size = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#size > 2 * this.#limit) this.#trim();
  }

  text(): string {
    return this.#trim().toString('utf8');
  }

  lines(): string[] {
    const lines = this.text().split('\n');
    if (lines.at(-1) === '') lines.pop();
    return lines.slice(-LINES).map((line) => line.slice(0, LINE_LENGTH));
  }

  #trim(): Buffer {
    const end = Buffer.concat(this.#chunks).subarray(-this.#limit);
    this.#chunks = [end];
    this.#size = end.length;
    return end;
  }
}

/**
 * Passes output to `take` as it comes. If `take` throws, it is not called again, and `kill` ends the command: an
 * exception in an event handler would end kiln itself. `rethrow` throws what it threw.
 */
export function listenToOutput(
  process: SandboxProcess,
  take: (chunk: Buffer, stream: 'stdout' | 'stderr') => void,
  kill: () => Promise<void>,
): { rethrow(): void } {
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
