import { fstatSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { attempt } from '../host/calls/libc.ts';
import { listenToOutput } from '../sandbox/command/output.ts';
import type { SandboxProcess } from '../sandbox/command/process.ts';
import { waitForExtraCommand } from '../sandbox/door/supervise.ts';
import { type Caller, FORWARDED } from './caller/caller.ts';
import { commandStatus } from './output/errors.ts';

export const OPEN_SHELL = [
  ...['/bin/sh', '-c', 'if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l'],
];

/** A second ^C within this time kills at once. Milliseconds. */
const TWICE = 3000;

/**
 * Connects a further command in a sandbox to its caller, and waits for its end, but not for that of what it leaves
 * running.
 */
export async function runAttached(
  command: SandboxProcess,
  kill: () => void,
  caller: Caller,
  tty: boolean,
): Promise<void> {
  using _attached = connectCommand(command, kill, caller, tty);
  caller.exitStatus = commandStatus(await waitForExtraCommand(command));
}

/** @param read takes what it writes as well: then its stdio has not been handed over */
export function connectCommand(
  command: SandboxProcess,
  kill: () => void,
  caller: Caller,
  tty: boolean,
  read?: (chunk: Buffer, stream: 'stdout' | 'stderr') => void,
): Disposable {
  const attached = new DisposableStack();
  attached.use(forwardSignals(command, kill, caller));
  if (tty) passWindowSize(command, caller, attached);
  if (caller.handOver !== undefined && read === undefined) return attached;
  if (tty) attachTerminal(command, caller, attached);
  else attach(command, caller, attached);
  if (read !== undefined) listenToOutput(command, read, async () => kill());
  return attached;
}

function attach(command: SandboxProcess, caller: Caller, attached: DisposableStack): void {
  relay(command.stdout, caller.stdout.stream);
  relay(command.stderr, caller.stderr.stream);
  // What a client hands over is another process's.
  if (caller.handOver === undefined && hasNoInput()) {
    command.stdin.end();
    return;
  }
  const { stream } = attached.use(caller.readInput({ raw: false }));
  stream.pipe(command.stdin);
  attached.defer(() => stream.unpipe(command.stdin));
}

/** The major and minor number of /dev/null, as st_rdev has them (the kernel's devices.txt, makedev(3)). */
const NULL_DEVICE = 0x103;

function hasNoInput(): boolean {
  const stdin = attempt(() => fstatSync(0));
  return stdin?.isCharacterDevice() === true && stdin.rdev === NULL_DEVICE;
}

/** By the init, also where the client has the terminal: the client of a machine's has one of the relay's. */
function passWindowSize(command: SandboxProcess, caller: Caller, attached: DisposableStack): void {
  const resize = () => {
    const { rows, columns } = caller.windowSize;
    if (rows > 0) command.resize(rows, columns);
  };
  attached.use(caller.onSignal(['SIGWINCH'], resize));
  resize();
}

function attachTerminal(command: SandboxProcess, caller: Caller, attached: DisposableStack): void {
  const { stream } = attached.use(caller.readInput({ raw: true }));
  stream.on('data', (chunk: Buffer) => {
    if (!command.stdin.destroyed) command.stdin.write(chunk);
  });
  relay(command.stdout, caller.stdout.stream);
}

function relay(from: NodeJS.ReadableStream & { destroy(): void }, to: Writable): void {
  from.pipe(to, { end: false });
  // If kiln's reader is gone (`| head`), the command must notice, as it would without kiln.
  to.on('error', () => from.destroy());
}

/** Forwards the caller's signals to a command. A second SIGINT or SIGTERM calls `kill`. */
function forwardSignals(command: SandboxProcess, kill: () => void, caller: Caller): Disposable {
  let last = 0;
  return caller.onSignal(FORWARDED, (signal) => {
    const ends = signal === 'SIGINT' || signal === 'SIGTERM';
    const again = ends && Date.now() - last < TWICE;
    if (ends) last = Date.now();
    if (again) kill();
    else command.kill(signal);
  });
}
