/** Commands of a sandbox until their end: what they are given, limits of time, output, and what is told of the end. */
import { addAbortListener } from 'node:events';
import { isKilnCode } from '../../errors.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { LONGEST_WAIT } from '../../host/process/wait-for.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { CommandFacts, SandboxFacts } from '../command/facts.ts';
import { KEPT, listenToOutput, Output } from '../command/output.ts';
import type { RefusedCall, SandboxProcess } from '../command/process.ts';
import type { LeaseRequest } from '../network/dhcp-client.ts';
import type { Secret } from '../policy/specification.ts';

/** Time limits in milliseconds; undefined for none. */
export interface TimeLimits {
  readonly timeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
}

/** The time limits among other values. */
export function timeOf({ timeout, stallTimeout }: TimeLimits): TimeLimits {
  return { timeout, stallTimeout };
}

/** How long a command may take to end after SIGTERM before it is killed, ms. */
export const GRACE = 2000;

/** How long to wait for output that leftover processes may hold open, ms. */
const LATE_OUTPUT = 500;

export interface CommandEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly timeLimit: 'timeout' | 'stall' | null;
}

/** The time limits of some commands. All get SIGTERM when the time is over and are killed two seconds later. */
export class Clock implements Disposable {
  hit: CommandEnd['timeLimit'] = null;
  readonly #kill: () => void;
  readonly #commands = new Set<SandboxProcess>();
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #stall: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor({ timeout, stallTimeout }: TimeLimits, kill: () => void) {
    this.#kill = kill;
    if (timeout !== undefined) this.#after(timeout, () => this.#over('timeout'));
    if (stallTimeout !== undefined)
      this.#stall = this.#after(stallTimeout, () => this.#over('stall'));
  }

  watch(command: SandboxProcess): void {
    this.#commands.add(command);
    for (const end of ['exit', 'gone'] as const) {
      command.once(end, () => this.#commands.delete(command));
    }
    const stall = this.#stall;
    if (stall === undefined) return;
    const alive = () => {
      if (!this.#stopped && this.hit === null) stall.refresh();
    };
    alive();
    for (const stream of [command.stdout, command.stderr]) stream.on('data', alive);
    command.on('relayed', alive);
  }

  [Symbol.dispose](): void {
    // refresh() would restart a cleared timer.
    this.#stopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
  }

  #over(limit: 'timeout' | 'stall'): void {
    if (this.hit !== null) return;
    this.hit = limit;
    for (const command of this.#commands) command.kill('SIGTERM');
    this.#after(GRACE, this.#kill);
  }

  #after(milliseconds: number, act: () => void): NodeJS.Timeout {
    const timer = setTimeout(act, Math.min(milliseconds, LONGEST_WAIT));
    this.#timers.push(timer);
    return timer;
  }
}

/**
 * Waits for a command and all its output. Where leftover processes may stay, their output is awaited for half a
 * second only; where it is cut, what comes later is for nobody. Throws errors of the output, E_INIT_SILENT if
 * nothing ends the command, and E_SANDBOX_GONE if the sandbox ended before it.
 */
export async function supervise(
  command: SandboxProcess,
  limits: TimeLimits,
  leftovers: 'ended' | 'left' | 'cut',
  kill: () => Promise<void>,
): Promise<CommandEnd> {
  const { promise: ended, resolve, reject } = deferred<CommandEnd>();
  let late: NodeJS.Timeout | undefined;
  let awaited = true;
  using clock = new Clock(limits, () =>
    kill().catch((error: unknown) => {
      // An init that does not answer cannot end anything; if the sandbox is gone, everything has ended.
      if (isKilnCode(error, 'E_INIT_SILENT')) reject(error);
    }),
  );
  clock.watch(command);
  const over = () => {
    const { exitCode, signalCode: signal, gone } = command;
    if (gone === undefined) resolve({ exitCode, signal, timeLimit: clock.hit });
    else reject(gone);
  };
  command.once('error', reject);
  command.once('close', over);
  const awaitLateOutput = () => {
    clock[Symbol.dispose]();
    late = setTimeout(() => {
      if (leftovers === 'cut' || command.isHanded) command.endOutput();
      // Output that arrived while this process was busy is read first.
      else setImmediate(over);
    }, LATE_OUTPUT);
  };
  // A process that the kernel cannot end keeps its output open: what is written by then is the last.
  const cut = () => {
    if (awaited) late = setTimeout(() => command.endOutput(), LATE_OUTPUT);
  };
  command.once('exit', () => {
    if (leftovers === 'ended') kill().then(cut, cut);
    else awaitLateOutput();
  });
  // A process of the host's may have got the ends of the pipes.
  command.once('gone', awaitLateOutput);
  try {
    return await ended;
  } finally {
    awaited = false;
    clearTimeout(late);
  }
}

/**
 * Waits for a command beside the sandbox's own, and for its output, which processes that it left running may still
 * have open. It has no time limits.
 */
export function waitForExtraCommand(command: SandboxProcess): Promise<CommandEnd> {
  return supervise(command, {}, 'cut', async () => undefined);
}

export interface OpenIo {
  readonly secrets?: readonly Secret[];
  readonly signal?: AbortSignal | undefined;
  readonly samples?: UsageWatcher | undefined;
  /** A network has given it an address, the first time or anew. */
  readonly onLease?: LeaseRequest['onLease'];
  /** What its caller calls the sandbox. */
  readonly name?: string | undefined;
  /** What others of the caller's find it by on its networks; of a job, its name. */
  readonly knownAs?: string | undefined;
}

interface UsageWatcher {
  watch(read: () => CgroupUsage): Disposable;
}

export interface CommandIo {
  readonly input?: Buffer | undefined;
  readonly onOutput?: ((chunk: Buffer, stream: 'stdout' | 'stderr') => void) | undefined;
  readonly keep?: number;
  readonly capture?: number;
  readonly signal?: AbortSignal | undefined;
  /** Work that needs nothing of the command: it is done while that runs. */
  readonly meanwhile?: (() => void) | undefined;
}

export type LimitHit = 'timeout' | 'stall' | 'memory' | 'pids' | 'disk';

export type Measured = SandboxFacts & CommandFacts;

export interface Ended extends CommandEnd {
  readonly limitHit: LimitHit | null;
  readonly usage: CgroupUsage;
  readonly measured: Measured;
  readonly refused: readonly RefusedCall[];
}

export interface Executed extends Ended {
  readonly output: Output;
  readonly stdout: Buffer;
}

export interface RunningCommand {
  readonly process: SandboxProcess;
  readonly measured: Measured;
  kill(): Promise<void>;
  ended(): Promise<Ended>;
}

/** Feeds a command its input, keeps its output, and waits for its end. @throws the signal's reason */
export async function executed(command: RunningCommand, io: CommandIo): Promise<Executed> {
  const { signal, onOutput, capture = 0 } = io;
  const output = new Output(io.keep ?? KEPT);
  const stdout: Buffer[] = [];
  let captured = 0;
  const take = (chunk: Buffer, stream: 'stdout' | 'stderr') => {
    output.push(chunk);
    if (stream === 'stdout' && captured < capture) {
      stdout.push(chunk.subarray(0, capture - captured));
      captured += chunk.length;
    }
    onOutput?.(chunk, stream);
  };
  const listener = listenToOutput(command.process, take, command.kill);
  // Also called where the signal was aborted while the command started.
  const abort = () => void command.kill().catch(() => undefined);
  using _abort = signal && addAbortListener(signal, abort);
  const ended = awaitedLater(command.ended());
  command.process.stdin.end(io.input);
  io.meanwhile?.();
  const end = await ended.catch((error: unknown) => {
    signal?.throwIfAborted();
    listener.rethrow();
    throw error;
  });
  signal?.throwIfAborted();
  listener.rethrow();
  return { ...end, output, stdout: Buffer.concat(stdout) };
}
