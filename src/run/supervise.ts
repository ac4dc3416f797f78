import type { Readable } from 'node:stream';
import { KilnError } from '../errors.ts';
import { deferred } from '../promise.ts';
import type { SandboxProcess } from '../sandbox/process.ts';

/** Bounds in time; undefined is none. Milliseconds. */
export interface TimeLimits {
  /** From the start of the command to its end. */
  readonly timeout?: number;
  /** Without any output. */
  readonly stallTimeout?: number;
}

/** How long a command that is out of time has to end by itself before it is killed, ms. */
const GRACE = 2000;

/** How a command ended. Either `exitCode` or `signal` is set. */
export interface CommandEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly timeLimit: 'timeout' | 'stall' | null;
}

/**
 * Waits for a command and all its output, and ends it when its time is over: SIGTERM, then, after
 * two seconds, `kill` ends everything in its box. What a command that has ended has left in the
 * background is killed as well; if the box is `ending`, which takes all of it, only where it may still
 * hold the output open.
 */
export async function supervise(
  command: SandboxProcess,
  limits: TimeLimits,
  kill: () => Promise<void>,
  ending = false,
): Promise<CommandEnd> {
  let timeLimit: CommandEnd['timeLimit'] = null;
  let grace: NodeJS.Timeout | undefined;
  const silent = deferred<never>();
  const over = (limit: 'timeout' | 'stall') => {
    if (timeLimit !== null) return;
    timeLimit = limit;
    command.kill('SIGTERM');
    const fail = (error: unknown) => {
      // An init that does not answer ends nothing; a sandbox that is gone has ended all.
      if (error instanceof KilnError && error.code === 'E_INIT_SILENT') silent.reject(error);
    };
    grace = setTimeout(() => kill().catch(fail), GRACE);
  };
  const timeout =
    limits.timeout === undefined ? undefined : setTimeout(over, limits.timeout, 'timeout');
  const stopWatching = watchOutput(command, limits.stallTimeout, () => over('stall'));
  try {
    const { promise: ended, resolve, reject } = deferred<CommandEnd>();
    let closed = false;
    const killRest = () => void (closed || kill().catch(() => undefined));
    command.once('error', reject);
    // `close` comes in the same turn where all output has been read.
    command.once('exit', ending ? () => setImmediate(killRest) : killRest);
    command.once('close', (exitCode, signal) => {
      closed = true;
      resolve({ exitCode, signal, timeLimit });
    });
    return await Promise.race([ended, silent.promise]);
  } finally {
    clearTimeout(timeout);
    clearTimeout(grace);
    stopWatching();
  }
}

/** Calls `stalled` once there has been no output for `limit` milliseconds. */
function watchOutput(
  command: SandboxProcess,
  limit: number | undefined,
  stalled: () => void,
): () => void {
  if (limit === undefined) return () => undefined;
  const timer = setTimeout(stalled, limit);
  const alive = () => void timer.refresh();
  const streams: readonly Readable[] = [command.stdout, command.stderr];
  for (const stream of streams) stream.on('data', alive);
  command.on('relayed', alive);
  return () => {
    clearTimeout(timer);
    for (const stream of streams) stream.off('data', alive);
    command.off('relayed', alive);
  };
}
