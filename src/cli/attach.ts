import { fstatSync } from 'node:fs';
import { canRelayTo } from '../kernel/relay.ts';
import type { SandboxProcess } from '../sandbox/process.ts';
import type { RelayedOutput } from '../sandbox/streams.ts';
import { type Caller, FORWARDED, processCaller } from './caller.ts';

/** What forwards to a command until it is detached. */
export interface Attachment {
  detach(): void;
}

/** A second ^C within this time means: now. Milliseconds. */
const TWICE = 3000;

/** Which of kiln's own outputs need not pass through it: pipes and files. */
export function relayableOutput(): RelayedOutput {
  return {
    ...(canRelayTo(1) ? { stdout: 1 } : {}),
    ...(canRelayTo(2) ? { stderr: 2 } : {}),
  };
}

/**
 * Connects kiln's own stdin, stdout and stderr to a command's, but for those that are `relayed`, and
 * forwards signals to it. A second SIGINT or SIGTERM calls `kill`.
 */
export function attach(
  command: SandboxProcess,
  kill: () => void,
  relayed: RelayedOutput = {},
): Attachment {
  const signals = forwardSignals(command, kill);
  // Node's streams of them take milliseconds to make: only those that something flows through.
  if (relayed.stdout === undefined) relay(command.stdout, process.stdout);
  if (relayed.stderr === undefined) relay(command.stderr, process.stderr);
  if (hasNoInput()) {
    command.stdin.end();
    return signals;
  }
  process.stdin.pipe(command.stdin);
  return {
    detach: () => {
      signals.detach();
      process.stdin.unpipe(command.stdin);
      // A terminal or pipe that is still open would keep kiln waiting.
      process.stdin.destroy();
    },
  };
}

/** Major and minor number of /dev/null, as st_rdev has them (the kernel's devices.txt, makedev(3)). */
const NULL_DEVICE = 0x103;

/** Whether stdin is /dev/null, as services, cron and CI jobs have it. */
function hasNoInput(): boolean {
  try {
    const stdin = fstatSync(0);
    return stdin.isCharacterDevice() && stdin.rdev === NULL_DEVICE;
  } catch {
    return false;
  }
}

/** The same with a terminal between: keys as they come, and the window's size. */
export function attachTerminal(command: SandboxProcess, kill: () => void): Attachment {
  const signals = forwardSignals(command, kill);
  const resize = () => command.resize(process.stdout.rows ?? 24, process.stdout.columns ?? 80);
  if (process.stdin.isTTY) process.stdin.setRawMode(true);
  process.on('SIGWINCH', resize);
  resize();
  process.stdin.on('data', (chunk) => {
    if (!command.stdin.destroyed) command.stdin.write(chunk);
  });
  relay(command.stdout, process.stdout);
  return {
    detach: () => {
      signals.detach();
      process.off('SIGWINCH', resize);
      if (process.stdin.isTTY) process.stdin.setRawMode(false);
      process.stdin.destroy();
    },
  };
}

function relay(from: NodeJS.ReadableStream & { destroy(): void }, to: NodeJS.WriteStream): void {
  from.pipe(to, { end: false });
  // Who reads us is gone (`| head`): the command is to notice, as it would without us.
  to.on('error', () => from.destroy());
}

/** Forwards the caller's signals to a command. A second SIGINT or SIGTERM calls `kill`. */
export function forwardSignals(
  command: SandboxProcess,
  kill: () => void,
  caller: Caller = processCaller,
): Attachment {
  let last = 0;
  const listening = caller.onSignal(FORWARDED, (signal) => {
    const again = Date.now() - last < TWICE;
    if (signal === 'SIGINT' || signal === 'SIGTERM') last = Date.now();
    if (again && last > 0 && (signal === 'SIGINT' || signal === 'SIGTERM')) kill();
    else command.kill(signal);
  });
  return { detach: () => listening[Symbol.dispose]() };
}
