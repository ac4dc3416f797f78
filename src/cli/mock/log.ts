import type { Warning } from '../../artifacts/warning.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { knownFailure } from '../../host/calls/system-error.ts';
import type { MockEvents } from '../../jobs/mock/session.ts';
import { noteFailure, reasonsOf } from '../output/errors.ts';
import type { TextOutput } from '../output/print.ts';
import { LogTail, LogView } from '../output/print.ts';

export type Verbosity = 'quiet' | 'normal' | 'verbose';

/** Where kiln's own hint is of options that mock has not. */
const HINTS: Readonly<Partial<Record<ErrorCode, string>>> = {
  E_WORKDIR: '--cwd names a folder of the root',
  E_COMMAND_NOT_FOUND:
    '--install installs the package that has it, --copyin copies a file of this host into the root',
  E_RPM_MISSING:
    'add rpm to chroot_setup_cmd of the configuration, or to the packages of the recipe',
  E_SCRIPTLET: 'the package is at fault, or needs more than a sealed sandbox gives',
};

/** mock's messages about its own work: on stderr, in the form that scripts look for. */
export class MockLog implements MockEvents, Disposable {
  readonly verbosity: Verbosity;
  readonly #to: TextOutput;
  readonly #view = new LogView(() => this.#to);
  readonly #tail = new LogTail();

  constructor(verbosity: Verbosity, to: TextOutput) {
    this.#to = to;
    this.verbosity = verbosity;
  }

  get showsLogs(): boolean {
    return this.verbosity === 'verbose' || (this.verbosity === 'normal' && this.#to.isTTY);
  }

  info(message: string): void {
    if (this.verbosity !== 'quiet') this.#write(`INFO: ${message}`);
  }

  warning({ code, message }: Warning): void {
    this.#write(`WARNING: ${message} [${code}]`);
  }

  error(message: string): void {
    this.#write(`ERROR: ${message}`);
  }

  failure(error: unknown, status: number): void {
    noteFailure(error, status);
    const known = knownFailure(error);
    if (known === undefined) {
      this.error(`internal error: ${error instanceof Error ? error.stack : String(error)}`);
      return;
    }
    this.error(known.message);
    for (const reason of reasonsOf(error, known)) this.error(`  because: ${reason}`);
    const hint = HINTS[known.code] ?? known.hint?.replace('--timeout', '--rpmbuild_timeout');
    if (hint !== undefined) this.error(`  hint: ${hint}`);
  }

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

  output(chunk: string | Buffer): void {
    if (!this.showsLogs) return;
    this.#view.write(chunk);
    this.#tail.push(chunk);
  }

  hasShown(lines: readonly string[]): boolean {
    return this.showsLogs && this.#tail.has(lines);
  }

  /** Ends the log of a build; there may be another. */
  [Symbol.dispose](): void {
    this.#view[Symbol.dispose]();
  }

  #write(line: string): void {
    this[Symbol.dispose]();
    this.#to.say(`${line}\n`);
  }
}
