/** Who called kiln, and what kiln sees of them: of this process, or of a client of the daemon. */

import { callerVariable } from '../kernel/own-node.ts';
import { callerIds } from '../run/request.ts';
import type { HandOver } from '../sandbox/streams.ts';
import { plainText } from './print.ts';

/** One of the caller's outputs, for text of kiln's own. */
export interface TextOutput {
  readonly isTTY: boolean;
  /** Characters of a line, where it is a terminal. */
  readonly columns: number;
  /** Writes text as it is: nothing of it may come from a stranger. */
  write(text: string): void;
  /** Writes kiln's own words, and what they quote, with nothing in them that a terminal acts on. */
  say(text: string): void;
}

/** Everything of a command line that is not an option: explicit, since a daemon has many at a time. */
export interface Caller {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A variable as the caller has it: `env` of a process lacks what Node would obey. */
  variable(name: string): string | undefined;
  /** Absolute. Throws Node's own ENOENT where it was deleted. */
  cwd(): string;
  /** Whose files binds and artifacts are. */
  readonly ids: { readonly uid: number; readonly gid: number };
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly windowSize: { readonly rows: number; readonly columns: number };
  /** kiln's exit status, as far as it is known. */
  exitStatus: number | undefined;
  /**
   * Tells of some of the {@link FORWARDED} signals that the caller gets, until it is disposed of. A signal
   * that nobody listens for means what it means to any process.
   */
  onSignal(
    signals: readonly NodeJS.Signals[],
    listener: (signal: NodeJS.Signals) => void,
  ): Disposable;
  /** Where stdio is not this process's own: gives a command's to the caller. */
  readonly handOver: HandOver | undefined;
}

/** Signals that mean something to a command. */
export const FORWARDED: readonly NodeJS.Signals[] = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const),
];

/** The caller whose process this is. */
export const processCaller: Caller = {
  env: process.env,
  variable: callerVariable,
  cwd: () => process.cwd(),
  get ids() {
    return callerIds(process.env);
  },
  // Not made before they are needed: Node takes a millisecond for each.
  get stdout() {
    return outputOf(process.stdout);
  },
  get stderr() {
    return outputOf(process.stderr);
  },
  get windowSize() {
    return { rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 };
  },
  get exitStatus() {
    return process.exitCode === undefined ? undefined : Number(process.exitCode);
  },
  set exitStatus(status) {
    process.exitCode = status;
  },
  onSignal: (signals, listener) => {
    for (const signal of signals) process.on(signal, listener);
    return {
      [Symbol.dispose]: () => {
        for (const signal of signals) process.off(signal, listener);
      },
    };
  },
  handOver: undefined,
};

function outputOf(stream: NodeJS.WriteStream): TextOutput {
  return {
    isTTY: stream.isTTY === true,
    columns: stream.columns || 80,
    write: (text) => void stream.write(text),
    say: (text) => void stream.write(plainText(text)),
  };
}
