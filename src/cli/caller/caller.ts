import { closeSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import type { Parking } from '../../daemon/parked.ts';
import type { DetachedJob, JobOptions } from '../../detached/job.ts';
import type { EngineOptions, OwnEngine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { hasProc } from '../../host/process/process.ts';
import { endWaits } from '../../host/process/wait-for.ts';
import { connectUnixSocket } from '../../host/sockets/unix-socket.ts';
import type { HandOver } from '../../sandbox/command/process.ts';
import type { CallerPaths } from '../../users/caller-paths.ts';
import { type CallerUser, groupNumber, readConfiguration } from '../../users/configuration.ts';
import { type CallersConfiguration, configurationFile } from '../../users/configuration-file.ts';
import { type CiService, harmlessText, type TextOutput } from '../output/print.ts';

/** The caller's stdin. Disposing leaves the rest unread, and resets the terminal. */
export interface TextInput extends Disposable {
  readonly stream: Readable;
}

export interface DetachRequest extends Pick<JobOptions, 'name' | 'tty' | 'resultDirectory'> {
  /** The caller stays, and leaves by these keys, if at all: the job begins then. */
  readonly leaveBy?: string;
}

/** Who calls, root or a user, and what becomes of the paths that they name. */
export interface PathCaller {
  readonly user: CallerUser | undefined;
  readonly paths: CallerPaths;
}

/** Whoever gives options: on a command line, or by a call of the API. */
export interface OptionCaller extends PathCaller {
  /** kilnd sets KILN_STATE to its own absolute path. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A variable with the caller's value; `env` lacks variables that Node would obey. */
  variable(name: string): string | undefined;
  readonly environment: Readonly<Record<string, string>>;
  /** Absolute. Throws Node's own ENOENT if it was deleted. */
  cwd(): string;
  readonly ids: { readonly uid: number; readonly gid: number };
  /**
   * Room for a sandbox beside the one that a user's command has, until disposed of; undefined if there is none now.
   * Without this function there is no bound.
   */
  readonly takeRoom?: (() => Promise<Disposable | undefined>) | undefined;
}

/** Everything of a command line beside its options. It is explicit because a daemon has many callers at a time. */
export interface Caller extends OptionCaller {
  /** The path of root's kiln.yaml, and the caller's own. */
  readonly configuration: {
    readonly file: string;
    readonly own: CallersConfiguration | undefined;
  };
  readonly inputIsTTY: boolean;
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly windowSize: { readonly rows: number; readonly columns: number };
  /** Unset counts as success; a short run that leaves it unset has failed. */
  exitStatus: number | undefined;
  /** Standard output is what the command is for: without a reader it fails. */
  isOutputAll: boolean;
  /** For `--quiet`: nothing tells of progress. */
  isQuiet: boolean;
  /** What reads this caller's output. */
  service: CiService | undefined;
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
  readInput(options: { readonly raw: boolean }): TextInput;
  /**
   * Makes the command a job that goes on without its caller; the job begins when told to. Undefined without the daemon.
   * @throws KilnError E_ARGUMENT, E_JOB_NAME
   */
  readonly detach: ((options: DetachRequest) => Promise<DetachedJob>) | undefined;
  /**
   * The engine that the environment names; `anybody` may open it who needs nothing of this host.
   * @throws KilnError E_NOT_ROOT, E_NO_PROC, E_STATE
   */
  openEngine(options?: EngineOptions & { readonly anybody?: boolean }): OwnEngine;
  readonly parking: Parking | undefined;
  /** True if this process serves nobody else. */
  readonly isOnly: boolean;
  /** Notes a change of the store: it is flushed to the disk once nobody waits. */
  readonly storeChanged: () => void;
}

export const FORWARDED: readonly NodeJS.Signals[] = [
  ...(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const),
];

export function hasTerminal({ inputIsTTY, stdout }: Caller): boolean {
  return inputIsTTY && stdout.isTTY;
}

export function outputOf(
  stream: Writable,
  terminal: { readonly isTTY: boolean; readonly columns: number },
  caller?: { readonly service: CiService | undefined },
): TextOutput {
  return {
    ...terminal,
    get service() {
      return caller?.service;
    },
    stream,
    write: (text) => void stream.write(text),
    say: (text) => void stream.write(harmlessText(text, caller?.service)),
  };
}

/** Says the caller's names for what kiln holds open. */
export function renaming(output: TextOutput, paths: CallerPaths): TextOutput {
  return {
    ...output,
    write: (text) => output.write(typeof text === 'string' ? paths.renamed(text) : text),
    say: (text) => output.say(paths.renamed(text)),
  };
}

/** Another machine's kiln is told so: it knows nothing of the variables of the service, and writes no files for it. */
export const SERVICE_VARIABLE = 'KILN_CI_LOG';

export function serviceOf(variable: Caller['variable']): CiService | undefined {
  const told = variable(SERVICE_VARIABLE);
  if (variable('GITHUB_ACTIONS') === 'true' || told === 'github') return 'github';
  return variable('GITLAB_CI') === 'true' || told === 'gitlab' ? 'gitlab' : undefined;
}

export function listenForInterruption(
  caller: Caller,
): Disposable & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const listening = caller.onSignal(['SIGINT', 'SIGTERM', 'SIGHUP'], () => {
    const reason = new KilnError('E_INTERRUPTED', 'interrupted');
    controller.abort(reason);
    if (caller.isOnly) endWaits(reason);
  });
  return { signal: controller.signal, [Symbol.dispose]: () => listening[Symbol.dispose]() };
}

/**
 * Refuses a caller or host on which every command would fail. Without this check each command fails in its own
 * way, or shows an empty list of what it cannot read.
 * @throws KilnError E_NOT_ROOT, E_NO_DAEMON, E_NO_PROC
 */
export function requireHost(env: Caller['env']): void {
  const uid = process.geteuid?.() ?? 0;
  if (uid !== 0 && lacksDaemon(env)) {
    throw new KilnError('E_NO_DAEMON', `kilnd does not listen at ${DEFAULT_SOCKET}`, {
      hint: 'you are in the group that it serves; root’s first `kiln ps` starts it, or `systemctl enable --now kiln.socket`',
    });
  }
  if (uid !== 0) {
    throw new KilnError(
      'E_NOT_ROOT',
      `only root and members of the group kiln can do this, and kiln runs as user ${uid}`,
      {
        hint: 'run it as root, for example with sudo, or have root put you into the group kiln, and leave KILN_STATE unset: `kiln doctor users` says what is missing; `kiln rpm query` and `verify` need no root',
      },
    );
  }
  if (!hasProc()) {
    throw new KilnError('E_NO_PROC', '/proc is not mounted', {
      hint: 'mount it: mount -t proc proc /proc',
    });
  }
}

const DEFAULT_SOCKET = '/run/kiln/io.kiln';

/** Whether kilnd would serve this user, and is not there. */
function lacksDaemon(env: Caller['env']): boolean {
  if (env.KILN_STATE) return false;
  const gid = attempt(() => {
    const { policy } = readConfiguration(configurationFile(env));
    return groupNumber(policy.group);
  });
  const groups = [process.getegid?.(), ...(process.getgroups?.() ?? [])];
  if (gid === undefined || !groups.includes(gid)) return false;
  const connection = attempt(() => connectUnixSocket(DEFAULT_SOCKET));
  if (connection !== undefined) closeSync(connection);
  return connection === undefined;
}
