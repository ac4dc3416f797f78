import { knownFailure, reasonLine } from '../../host/calls/system-error.ts';
import type { TextOutput } from '../caller/caller.ts';
import { LogTail } from '../output/log-tail.ts';
import { LogView } from '../output/print.ts';

/** The amount of output: `-q`, the default, `-v`. */
export type Verbosity = 'quiet' | 'normal' | 'verbose';

/** mock's messages about its own work: on stderr, in the form that scripts look for. */
export class MockLog {
  readonly verbosity: Verbosity;
  readonly #to: TextOutput;
  #view: LogView | undefined;
  readonly #tail = new LogTail();

  constructor(verbosity: Verbosity, to: TextOutput) {
    this.#to = to;
    this.verbosity = verbosity;
  }

  /** True if the output of package manager and rpmbuild is shown to people as well as logged. */
  get showsLogs(): boolean {
    return this.verbosity === 'verbose' || (this.verbosity === 'normal' && this.#to.isTTY);
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

  /** Prints an error with its causes and hint. */
  failure(error: unknown): void {
    const known = knownFailure(error);
    if (known === undefined) {
      this.error(`internal error: ${error instanceof Error ? error.stack : String(error)}`);
      return;
    }
    this.error(known.message);
    // For a failure of the system, the message has the cause already.
    let cause = known === error ? known.cause : undefined;
    for (; cause instanceof Error; cause = cause.cause) {
      this.error(`  because: ${reasonLine(cause)}`);
    }
    // Hints name kiln's own option.
    const hint = known.hint?.replace('--timeout', '--rpmbuild_timeout');
    if (hint !== undefined) this.error(`  hint: ${hint}`);
  }

  /** Runs work whose beginning and end are logged. */
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

  /** Logs the output of commands of kiln-mock's own. */
  output(chunk: string | Buffer): void {
    if (!this.showsLogs) return;
    this.#view ??= new LogView(this.#to);
    this.#view.write(chunk);
    this.#tail.push(chunk);
  }

  /** Whether these lines of a log were just shown. */
  hasShown(lines: readonly string[]): boolean {
    return this.showsLogs && this.#tail.has(lines);
  }

  #write(line: string): void {
    // Resets the log's colours before the next line of kiln's.
    this.#view?.[Symbol.dispose]();
    this.#to.say(`${line}\n`);
  }
}
