import type { SandboxProcess } from '../command/process.ts';

/** Characters of one line that are told; a linker's command may have megabytes. */
const LINE_LENGTH = 4096;

/** Lines that are told: enough to hold the first error of a parallel make. */
const LINES = 2000;

/** What a command wrote, as far as it is kept. */
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
