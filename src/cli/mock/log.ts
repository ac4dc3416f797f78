import { KilnError } from '../../errors.ts';

/** How much is said: `-q`, nothing, `-v`. */
export type Verbosity = 'quiet' | 'normal' | 'verbose';

/** What mock says about its own work: on stderr, in the form that scripts look for. */
export class MockLog {
  readonly verbosity: Verbosity;

  constructor(verbosity: Verbosity) {
    this.verbosity = verbosity;
  }

  /** What the package manager and rpmbuild write goes to people, not only to log files. */
  get showsLogs(): boolean {
    return this.verbosity === 'verbose' || (this.verbosity === 'normal' && process.stderr.isTTY);
  }

  info(message: string): void {
    if (this.verbosity !== 'quiet') this.#write(`INFO: ${message}`);
  }

  warning(message: string): void {
    this.#write(`WARNING: ${message}`);
  }

  error(message: string): void {
    this.#write(`ERROR: ${message}`);
  }

  /** Prints an error with its causes and what to do about it. */
  failure(error: unknown): void {
    if (!(error instanceof KilnError)) {
      this.error(`internal error: ${error instanceof Error ? error.stack : String(error)}`);
      return;
    }
    this.error(error.message);
    for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
      this.error(`  because: ${cause.message}`);
    }
    // Hints name kiln's own option.
    const hint = error.hint?.replace('--timeout', '--rpmbuild_timeout');
    if (hint !== undefined) this.error(`  hint: ${hint}`);
  }

  /** Does something that has a beginning and an end in the log. */
  async state<Result>(what: string, act: () => Promise<Result>): Promise<Result> {
    this.start(what);
    const result = await act();
    this.finish(what);
    return result;
  }

  start(what: string): void {
    if (this.verbosity !== 'quiet') this.#write(`Start: ${what}`);
  }

  finish(what: string): void {
    if (this.verbosity !== 'quiet') this.#write(`Finish: ${what}`);
  }

  /** Output of commands that do kiln-mock's own work. */
  output(chunk: string | Buffer): void {
    if (this.showsLogs) process.stderr.write(chunk);
  }

  #write(line: string): void {
    process.stderr.write(`${line}\n`);
  }
}
