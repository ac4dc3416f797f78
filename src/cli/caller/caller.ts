/** Who called kiln, and what kiln sees of them: of this process, or of a client of the daemon. */
import type { Readable, Writable } from 'node:stream';
import type { DetachedJob } from '../../detached/job.ts';
import type { EngineOptions, OwnEngine } from '../../engine.ts';
import type { HandOver } from '../../sandbox/command/streams.ts';
import type { CallerUser } from '../../users/user.ts';
import { plainText } from '../output/print.ts';

/** One of the caller's outputs. */
export interface TextOutput {
  readonly isTTY: boolean;
  /** Characters of a line, where it is a terminal. */
  readonly columns: number;
  /** For what comes in bulk: it says when there is room for more. Fails with EPIPE where nobody reads. */
  readonly stream: Writable;
  /** Writes text as it is: nothing of it may come from a stranger. */
  write(text: string | Uint8Array): void;
  /** Writes kiln's own words, and what they quote, with nothing in them that a terminal acts on. */
  say(text: string): void;
}

/** What the caller's stdin gives; disposing of it leaves the rest there, and the terminal as it was. */
export interface TextInput extends Disposable {
  readonly stream: Readable;
}

/** What a command wants of its engine. */
interface JobEngineOptions extends EngineOptions {
  /** It needs nothing of this host: users other than root may call it. */
  readonly anybody?: boolean;
}

/** How a job is to go on without its caller. */
export interface DetachRequest {
  readonly name: string | undefined;
  readonly tty: boolean;
  /** Where its results go; undefined: they wait in its folder. */
  readonly resultDirectory: string | undefined;
}

/** Everything of a command line that is not an option: explicit, since a daemon has many at a time. */
export interface Caller {
  /** KILN_STATE is absolute in it where a daemon has one. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A variable as the caller has it: `env` of a process lacks what Node would obey. */
  variable(name: string): string | undefined;
  /** All of them, for a program that runs as the caller. */
  readonly environment: Readonly<Record<string, string>>;
  /** Absolute. Throws Node's own ENOENT where it was deleted. */
  cwd(): string;
  /** Whose files binds and artifacts are. */
  readonly ids: { readonly uid: number; readonly gid: number };
  /** Who called, where that is not root. */
  readonly user: CallerUser | undefined;
  /** Whether stdin is a terminal. */
  readonly inputIsTTY: boolean;
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  /** As it is now. */
  readonly windowSize: { readonly rows: number; readonly columns: number };
  /** kiln's exit status, as far as it is known. */
  exitStatus: number | undefined;
  /**
   * Tells of some of the {@link FORWARDED} signals, or SIGWINCH, that the caller gets, until it is disposed
   * of. A signal that nobody listens for means what it means to any process.
   */
  onSignal(
    signals: readonly NodeJS.Signals[],
    listener: (signal: NodeJS.Signals) => void,
  ): Disposable;
  /** Where stdio is not this process's own: gives a command's to the caller. */
  readonly handOver: HandOver | undefined;
  /** Reads stdin; a terminal is `raw` meanwhile, so that every key comes as it is pressed. */
  readInput(options: { readonly raw: boolean }): TextInput;
  /**
   * Has what it called go on without it: a job, which begins when it is told to. Undefined where no daemon works.
   * @throws KilnError E_ARGUMENT, E_JOB_NAME
   */
  readonly detach: ((options: DetachRequest) => Promise<DetachedJob>) | undefined;
  /** The engine that the environment names. @throws KilnError E_NOT_ROOT, E_NO_PROC, E_STATE */
  openEngine(options?: JobEngineOptions): OwnEngine;
  /** Where sandboxes can be parked. */
  readonly parking: Parking | undefined;
  /** Nothing of this process is for anybody else. */
  readonly isOnly: boolean;
  /** Something has been changed in the store: it is written to the disk once nobody waits any more. */
  storeChanged(): void;
}

/** The sandboxes that wait; src/daemon/parked.ts has them. */
export interface Parking {
  /** How many wait, how many are to, and how many more memory has room for. */
  readonly count: number;
  readonly target: number;
  readonly room: number;
  keep(count: number): Promise<void>;
  fill(): Promise<void>;
  none(): Promise<void>;
}

/** Signals that mean something to a command. */
export const FORWARDED: readonly NodeJS.Signals[] = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const),
];

/** A terminal at both ends, for somebody who types. */
export function hasTerminal({ inputIsTTY, stdout }: Caller): boolean {
  return inputIsTTY && stdout.isTTY;
}

/** An output that is a stream of this process. */
export function outputOf(
  stream: Writable,
  terminal: { readonly isTTY: boolean; readonly columns: number },
): TextOutput {
  return {
    ...terminal,
    stream,
    write: (text) => void stream.write(text),
    say: (text) => void stream.write(plainText(text)),
  };
}
