/** Who called kiln: the user of this process, or a client of the daemon. */
import type { Readable, Writable } from 'node:stream';
import type { DetachedJob } from '../../detached/job.ts';
import type { EngineOptions, OwnEngine } from '../../engine.ts';
import type { HandOver } from '../../sandbox/command/streams.ts';
import type { CallerUser } from '../../users/user.ts';
import { plainText } from '../output/print.ts';

/** One of the caller's outputs. */
export interface TextOutput {
  readonly isTTY: boolean;
  /** The width of a terminal in characters. */
  readonly columns: number;
  /** For much output: it tells when there is room for more. Fails with EPIPE if nobody reads. */
  readonly stream: Writable;
  /** Writes text unchanged: none of it may come from a stranger. */
  write(text: string | Uint8Array): void;
  /** Writes kiln's own words and quotations, without characters that control a terminal. */
  say(text: string): void;
}

/** The caller's stdin. Disposing leaves the rest unread, and resets the terminal. */
export interface TextInput extends Disposable {
  readonly stream: Readable;
}

/** What a command needs of its engine. */
interface JobEngineOptions extends EngineOptions {
  /** True if it needs nothing of this host, so that users other than root may call it. */
  readonly anybody?: boolean;
}

/** How a job is to go on without its caller. */
export interface DetachRequest {
  readonly name: string | undefined;
  readonly tty: boolean;
  /** Where its results go; undefined: they wait in its folder. */
  readonly resultDirectory: string | undefined;
}

/**
 * Everything of a command line beside its options. It is explicit because a daemon has many callers at a time.
 */
export interface Caller {
  /** KILN_STATE is absolute in it, if a daemon has one. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A variable with the caller's value; `env` lacks variables that Node would obey. */
  variable(name: string): string | undefined;
  /** All variables, for a program that runs as the caller. */
  readonly environment: Readonly<Record<string, string>>;
  /** Absolute. Throws Node's own ENOENT if it was deleted. */
  cwd(): string;
  /** The owner of files in binds and artifacts. */
  readonly ids: { readonly uid: number; readonly gid: number };
  /** The caller, if it is not root. */
  readonly user: CallerUser | undefined;
  /** Whether stdin is a terminal. */
  readonly inputIsTTY: boolean;
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  /** The current size. */
  readonly windowSize: { readonly rows: number; readonly columns: number };
  /** kiln's exit status, once it is known. */
  exitStatus: number | undefined;
  /**
   * Calls back for {@link FORWARDED} signals, or SIGWINCH, until disposed of. A signal without a listener has
   * its usual effect.
   */
  onSignal(
    signals: readonly NodeJS.Signals[],
    listener: (signal: NodeJS.Signals) => void,
  ): Disposable;
  /** Passes a command's stdio to the caller; undefined if stdio is this process's own. */
  readonly handOver: HandOver | undefined;
  /** Reads stdin; a terminal is `raw` meanwhile, so that every key arrives when it is pressed. */
  readInput(options: { readonly raw: boolean }): TextInput;
  /**
   * Has what it called go on without it: a job, which begins when it is told to. Undefined where no daemon works.
   * @throws KilnError E_ARGUMENT, E_JOB_NAME
   */
  readonly detach: ((options: DetachRequest) => Promise<DetachedJob>) | undefined;
  /** The engine that the environment names. @throws KilnError E_NOT_ROOT, E_NO_PROC, E_STATE */
  openEngine(options?: JobEngineOptions): OwnEngine;
  /** Where sandboxes can be parked; undefined without the daemon. */
  readonly parking: Parking | undefined;
  /** True if this process serves nobody else. */
  readonly isOnly: boolean;
  /** Notes a change of the store: it is flushed to the disk once nobody waits. */
  storeChanged(): void;
}

/** The parked sandboxes of the daemon; src/daemon/parked.ts has them. */
export interface Parking {
  /** How many are parked, how many should be, and how many more memory has room for. */
  readonly count: number;
  readonly target: number;
  readonly room: number;
  keep(count: number): Promise<void>;
  fill(): Promise<void>;
  none(): Promise<void>;
}

/** Signals that are forwarded to commands. */
export const FORWARDED: readonly NodeJS.Signals[] = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const),
];

/** Whether input and output are a terminal, for a person who types. */
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
