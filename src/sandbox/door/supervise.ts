import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import type { SandboxProcess } from '../command/process.ts';

/** Bounds in time; undefined is none. Milliseconds. */
export interface TimeLimits {
  /** From the start of the command to its end. */
  readonly timeout?: number | undefined;
  /** Without any output. */
  readonly stallTimeout?: number | undefined;
}

/** How long a command that is out of time has to end by itself before it is killed, ms. */
export const GRACE = 2000;

/** How long output is waited for that what a command has left running may hold open, ms. */
const LATE_OUTPUT = 500;

/** How a command ended. Either `exitCode` or `signal` is set. */
export interface CommandEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly timeLimit: 'timeout' | 'stall' | null;
}

/**
 * The limits of time of what may be several commands: when they are over, all get SIGTERM and, two seconds
 * later, are killed.
 */
export class Clock implements Disposable {
  /** The limit that was hit. */
  hit: CommandEnd['timeLimit'] = null;
  readonly #kill: () => void;
  readonly #commands = new Set<SandboxProcess>();
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #stall: NodeJS.Timeout | undefined;
  #stopped = false;

  /** @param kill ends what has not ended by itself */
  constructor({ timeout, stallTimeout }: TimeLimits, kill: () => void) {
    this.#kill = kill;
    if (timeout !== undefined) this.#after(timeout, () => this.#over('timeout'));
    if (stallTimeout !== undefined)
      this.#stall = this.#after(stallTimeout, () => this.#over('stall'));
  }

  /** Output of this command shows that it goes on. */
  watch(command: SandboxProcess): void {
    this.#commands.add(command);
    command.once('exit', () => this.#commands.delete(command));
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
    // refresh() would start a timer again that was cleared.
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
    const timer = setTimeout(act, milliseconds);
    this.#timers.push(timer);
    return timer;
  }
}

/**
 * Waits for a command and all its output, and ends it when its time is over. What it has left running goes
 * with it, by `kill`; where that may stay (`leftovers` are `left`), its output is waited for no longer than
 * half a second. Throws what goes wrong with the output, and E_INIT_SILENT where nothing ends it.
 */
export async function supervise(
  command: SandboxProcess,
  limits: TimeLimits,
  leftovers: 'ended' | 'left',
  kill: () => Promise<void>,
): Promise<CommandEnd> {
  const { promise: ended, resolve, reject } = deferred<CommandEnd>();
  let late: NodeJS.Timeout | undefined;
  using clock = new Clock(limits, () =>
    kill().catch((error: unknown) => {
      // An init that does not answer ends nothing; a sandbox that is gone has ended all.
      if (error instanceof KilnError && error.code === 'E_INIT_SILENT') reject(error);
    }),
  );
  clock.watch(command);
  const over = () => {
    const { exitCode, signalCode: signal } = command;
    resolve({ exitCode, signal, timeLimit: clock.hit });
  };
  command.once('error', reject);
  command.once('close', over);
  command.once('exit', () => {
    if (leftovers === 'ended') {
      kill().catch(() => undefined);
      return;
    }
    clock[Symbol.dispose]();
    // What has come while this process was busy is read before.
    late = setTimeout(() => setImmediate(over), LATE_OUTPUT);
  });
  try {
    return await ended;
  } finally {
    clearTimeout(late);
  }
}
