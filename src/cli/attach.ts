import { fstatSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { canRelayTo } from '../host/sockets/relay.ts';
import type { SandboxProcess } from '../sandbox/command/process.ts';
import type { RelayedOutput } from '../sandbox/command/streams.ts';
import { type Caller, FORWARDED } from './caller/caller.ts';

/** Forwards input, output and signals until it is detached. */
export interface Attachment {
  detach(): void;
}

/** A second ^C within this time kills at once. Milliseconds. */
const TWICE = 3000;

/** Attaches the caller to a command; only its signals if stdio was handed over. */
export function connectCommand(
  command: SandboxProcess,
  kill: () => void,
  caller: Caller,
  tty: boolean,
  relayed?: RelayedOutput,
): Attachment {
  if (caller.handOver !== undefined) return forwardSignals(command, kill, caller);
  return tty ? attachTerminal(command, kill, caller) : attach(command, kill, caller, relayed);
}

/** kiln's own outputs that bytes can be moved to directly: pipes and files. */
export function relayableOutput(): RelayedOutput {
  return {
    ...(canRelayTo(1) ? { stdout: 1 } : {}),
    ...(canRelayTo(2) ? { stderr: 2 } : {}),
  };
}

/**
 * Connects kiln's own stdin, stdout and stderr to a command's, except `relayed` ones, and forwards signals. A
 * second SIGINT or SIGTERM calls `kill`.
 */
function attach(
  command: SandboxProcess,
  kill: () => void,
  caller: Caller,
  relayed: RelayedOutput = {},
): Attachment {
  const signals = forwardSignals(command, kill, caller);
  // Making one of Node's streams takes milliseconds: make only the needed ones.
  if (relayed.stdout === undefined) relay(command.stdout, caller.stdout.stream);
  if (relayed.stderr === undefined) relay(command.stderr, caller.stderr.stream);
  if (hasNoInput()) {
    command.stdin.end();
    return signals;
  }
  const input = caller.readInput({ raw: false });
  input.stream.pipe(command.stdin);
  return {
    detach: () => {
      signals.detach();
      input.stream.unpipe(command.stdin);
      input[Symbol.dispose]();
    },
  };
}

/** The major and minor number of /dev/null, as st_rdev has them (the kernel's devices.txt, makedev(3)). */
const NULL_DEVICE = 0x103;

/** Whether stdin is /dev/null, as for services, cron and CI jobs. */
function hasNoInput(): boolean {
  try {
    const stdin = fstatSync(0);
    return stdin.isCharacterDevice() && stdin.rdev === NULL_DEVICE;
  } catch {
    return false;
  }
}

/** The same with a terminal: keys as they are pressed, and the window's size. */
function attachTerminal(command: SandboxProcess, kill: () => void, caller: Caller): Attachment {
  const signals = forwardSignals(command, kill, caller);
  const resize = () => command.resize(caller.windowSize.rows, caller.windowSize.columns);
  const input = caller.readInput({ raw: true });
  const resizing = caller.onSignal(['SIGWINCH'], resize);
  resize();
  input.stream.on('data', (chunk: Buffer) => {
    if (!command.stdin.destroyed) command.stdin.write(chunk);
  });
  relay(command.stdout, caller.stdout.stream);
  return {
    detach: () => {
      signals.detach();
      resizing[Symbol.dispose]();
      input[Symbol.dispose]();
    },
  };
}

function relay(from: NodeJS.ReadableStream & { destroy(): void }, to: Writable): void {
  from.pipe(to, { end: false });
  // If kiln's reader is gone (`| head`), the command must notice, as it would without kiln.
  to.on('error', () => from.destroy());
}

/** Forwards the caller's signals to a command. A second SIGINT or SIGTERM calls `kill`. */
function forwardSignals(command: SandboxProcess, kill: () => void, caller: Caller): Attachment {
  let last = 0;
  const listening = caller.onSignal(FORWARDED, (signal) => {
    const again = Date.now() - last < TWICE;
    if (signal === 'SIGINT' || signal === 'SIGTERM') last = Date.now();
    if (again && last > 0 && (signal === 'SIGINT' || signal === 'SIGTERM')) kill();
    else command.kill(signal);
  });
  return { detach: () => listening[Symbol.dispose]() };
}
