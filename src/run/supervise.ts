import type { Readable } from 'node:stream';
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
 * two seconds, `kill` ends everything in its box.
 */
export async function supervise(
  command: SandboxProcess,
  limits: TimeLimits,
  kill: () => Promise<void>,
): Promise<CommandEnd> {
  let timeLimit: CommandEnd['timeLimit'] = null;
  let grace: NodeJS.Timeout | undefined;
  const over = (limit: 'timeout' | 'stall') => {
    if (timeLimit !== null) return;
    timeLimit = limit;
    command.kill('SIGTERM');
    grace = setTimeout(() => kill().catch(() => undefined), GRACE);
  };
  const timeout =
    limits.timeout === undefined ? undefined : setTimeout(over, limits.timeout, 'timeout');
  const stopWatching = watchOutput(command, limits.stallTimeout, () => over('stall'));
  try {
    return await new Promise<CommandEnd>((resolve, reject) => {
      command.once('error', reject);
      // What the command left in the background may hold its output open: it goes first.
      command.once('exit', () => kill().catch(() => undefined));
      command.once('close', (exitCode, signal) => resolve({ exitCode, signal, timeLimit }));
    });
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
