import type { SandboxProcess } from '../command/process.ts';

/** Characters that are kept of one line: a linker's command may have megabytes. */
const LINE_LENGTH = 4096;

/** Lines that are kept: enough for the first error of a parallel make. */
const LINES = 2000;

/** The end of a command's output. */
export class Output {
  readonly #limit: number;
  #chunks: Buffer[] = [];
  #size = 0;

  /** @param limit bytes that are kept, the last ones */
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

  /** Oldest first, without ends of line. */
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

/** The result of listening to a command's output. */
export interface OutputListener {
  /** Throws the listener's error, if there was one. */
  rethrow(): void;
}

/**
 * Passes a command's output to `take` as it comes. If `take` throws (a log that cannot be written, a caller's
 * hook), it is not called again, and `kill` ends the command: an exception in an event handler would end kiln
 * itself.
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
