/** A command in a sandbox: its stdio, of which the init gets one end, its signals, and its end. */
import { EventEmitter } from 'node:events';
import { Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, createPipe, type Pipe } from '../../host/calls/descriptor.ts';
import { attempt } from '../../host/calls/libc.ts';
import { tryCall } from '../../host/calls/system-call.ts';
import { signalName, signalNumber } from '../../host/process/signals.ts';
import { receiveDescriptor, unixSocketPair } from '../../host/sockets/unix-socket.ts';
import type { AnswerOf, Parts } from '../wire/table.ts';
import type { CommandFacts } from './facts.ts';

export type ExitedAnswer = AnswerOf<'exited'>;

export type RefusedCall = Parts<'refused'>;

export interface ProcessEnd {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

interface CommandExit extends ProcessEnd {
  readonly refused?: readonly RefusedCall[];
}

export function exitOf({ status, refused }: ExitedAnswer): CommandExit {
  const signal = status & 0x7f;
  if (signal === 0) return { exitCode: (status >> 8) & 0xff, signal: null, refused };
  return { exitCode: null, signal: signalName(signal) ?? 'SIGKILL', refused };
}

export interface StartedCommand {
  readonly pid: number;
  readonly facts: CommandFacts;
}

/** Both throw where the command cannot be told. */
export interface CommandControl {
  signal(number: number): void;
  resize(rows: number, columns: number): void;
}

interface SandboxProcessEvents {
  /** The command has ended; output may still come. */
  exit: [code: number | null, signal: NodeJS.Signals | null];
  /** In place of `exit`: the sandbox has ended, so nobody knows how the command did. `error` comes with `close`. */
  gone: [error: Error];
  close: [code: number | null, signal: NodeJS.Signals | null];
  error: [error: Error];
  relayed: [];
}

export class SandboxProcess extends EventEmitter<SandboxProcessEvents> {
  readonly pid: number;
  readonly facts: CommandFacts;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  exitCode: number | null = null;
  signalCode: NodeJS.Signals | null = null;
  refused: readonly RefusedCall[] = [];

  /** Its output was handed on. */
  readonly isHanded: boolean;
  /** What others than the ended command have written until now is the last that is passed on. */
  readonly endOutput: () => void;
  readonly #control: CommandControl;
  gone: Error | undefined;
  #openStreams = 0;
  #ended = false;

  constructor(
    control: CommandControl,
    { pid, facts }: StartedCommand,
    streams: CommandStreams,
    ended: Promise<CommandExit>,
  ) {
    super();
    // There may be a second one when nobody waits any more: the sandbox is gone, and its output cannot be written.
    this.on('error', () => undefined);
    this.#control = control;
    this.pid = pid;
    this.facts = facts;
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    for (const stream of streams.read.filter(({ closed }) => !closed)) {
      this.#awaitOutput(new Promise((resolve) => stream.once('close', resolve)));
    }
    this.isHanded = streams.handed !== undefined;
    this.endOutput = streams.end;
    if (streams.handed !== undefined) {
      streams.handed.onMoved(() => this.emit('relayed'));
      this.#awaitOutput(streams.handed.drained);
    }
    // In a later turn, because the command may have ended before its starter could listen.
    ended.then(
      (exit) => setImmediate(() => this.#onExited(exit)),
      (error: Error) => setImmediate(() => this.#onGone(error)),
    );
  }

  /** Sends a signal to the command's process group, as a terminal does. False if the command has ended. */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    const number = signalNumber(signal);
    return this.#tell(() => this.#control.signal(number));
  }

  resize(rows: number, columns: number): void {
    this.#tell(() => this.#control.resize(rows, columns));
  }

  /**
   * False where the message is lost: the init is gone, which the end of the command tells, or too much waits for it.
   * Never throws: callers are handlers of events, in the daemon too.
   */
  #tell(act: () => void): boolean {
    if (this.#ended) return false;
    const told = attempt(() => {
      act();
      return true;
    });
    return told === true;
  }

  #awaitOutput(moved: Promise<void>): void {
    this.#openStreams++;
    const end = (cause?: unknown) => {
      this.#openStreams--;
      if (cause !== undefined) this.emit('error', outputError(cause));
      this.#closeWhenDone();
    };
    moved.then(() => end(), end);
  }

  #onExited({ exitCode, signal, refused = [] }: CommandExit): void {
    this.exitCode = exitCode;
    this.signalCode = signal;
    this.refused = refused;
    this.#finish();
  }

  #onGone(error: Error): void {
    this.gone = error;
    this.#finish();
  }

  #finish(): void {
    this.#ended = true;
    // A terminal is one stream for both directions: its last output must still be read.
    if (this.stdin !== (this.stdout as Readable | Writable)) this.stdin.destroy();
    if (this.gone === undefined) this.emit('exit', this.exitCode, this.signalCode);
    else this.emit('gone', this.gone);
    this.#closeWhenDone();
  }

  #closeWhenDone(): void {
    if (this.#ended && this.#openStreams === 0) {
      this.#openStreams = -1;
      if (this.gone !== undefined) this.emit('error', this.gone);
      this.emit('close', this.exitCode, this.signalCode);
    }
  }
}

/** When the command itself has ended; output may still come. @throws KilnError E_SANDBOX_GONE, E_PROTOCOL */
export function endOf(command: SandboxProcess): Promise<ProcessEnd> {
  return new Promise((resolve, reject) => {
    command.once('exit', (exitCode, signal) => resolve({ exitCode, signal }));
    command.once('gone', reject);
  });
}

function outputError(cause: unknown): KilnError {
  return new KilnError('E_OUTPUT', 'the command’s output cannot be passed on', {
    cause,
    hint: 'check whether the disk that it is redirected to is full',
  });
}

export interface CommandStdio {
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  readonly handOver?: HandOver | undefined;
}

export interface Stdio {
  readonly guest: readonly number[];
  /** The host's ends; a terminal's master comes with the start. */
  receive(): HostStdio;
  abandon(): void;
}

/** @param owner root of the sandbox; the init gives the pipes to the command's user */
export function pipes(owner: number): Stdio {
  const made: Pipe[] = [];
  const pipe = () => {
    try {
      const one = createPipe(owner);
      made.push(one);
      return one;
    } catch (error) {
      for (const fd of made.flatMap(({ read, write }) => [read, write])) closeDescriptor(fd);
      throw error;
    }
  };
  const [stdin, stdout, stderr] = [pipe(), pipe(), pipe()];
  const host = { stdin: stdin.write, stdout: stdout.read, stderr: stderr.read };
  return {
    guest: [stdin.read, stdout.write, stderr.write],
    receive: () => host,
    abandon: () => Object.values(host).forEach(closeDescriptor),
  };
}

export function terminalSocket(): Stdio {
  const [ours, theirs] = unixSocketPair();
  let open = true;
  const close = () => {
    if (open) closeDescriptor(ours);
    open = false;
  };
  return {
    guest: [theirs],
    receive: () => {
      const terminal = receiveDescriptor(ours);
      close();
      if (terminal !== undefined) return { terminal };
      throw new KilnError('E_PROTOCOL', 'the guest init sent no terminal');
    },
    abandon: close,
  };
}

export type HostStdio =
  | { readonly stdin: number; readonly stdout: number; readonly stderr: number }
  | { readonly terminal: number };

/** Passes the host's ends of stdio to another process, which moves the bytes and owns the descriptors then. */
export type HandOver = (stdio: HostStdio) => HandedStdio;

export interface HandedStdio {
  readonly onMoved: (listener: () => void) => void;
  /** What is in the pipes now is the last that is moved: whoever still holds them is not waited for. */
  readonly end: () => void;
  readonly drained: Promise<void>;
}

export interface CommandStreams {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly read: readonly Readable[];
  /** As {@link HandedStdio} has it. */
  readonly end: () => void;
  readonly handed?: HandedStdio;
}

/** Whoever is handed a command's stdio owns the descriptors. */
export function streamsOf(stdio: HostStdio, handOver: HandOver | undefined): CommandStreams {
  return handOver === undefined ? openStreams(stdio) : handedStreams(handOver(stdio));
}

function handedStreams(handed: HandedStdio): CommandStreams {
  const stdin = new Writable();
  stdin.destroy();
  const [stdout, stderr] = [Readable.from([]), Readable.from([])];
  return { stdin, stdout, stderr, read: [], end: handed.end, handed };
}

function openStreams(stdio: HostStdio): CommandStreams {
  if ('terminal' in stdio) {
    const terminal = terminalStream(stdio.terminal);
    // A terminal without users answers EIO; that is its end of file.
    terminal.on('error', () => terminal.destroy());
    const stderr = Readable.from([]);
    const end = () => endStream(terminal, stdio.terminal);
    return { stdin: terminal, stdout: terminal, stderr, read: [terminal], end };
  }
  const stdin = new Socket({ fd: stdio.stdin, readable: false, writable: true });
  // The command may not read its input.
  stdin.on('error', () => stdin.destroy());
  const output = (fd: number) => new Socket({ fd, readable: true, writable: false });
  const [stdout, stderr] = [output(stdio.stdout), output(stdio.stderr)];
  const end = () => {
    endStream(stdout, stdio.stdout);
    endStream(stderr, stdio.stderr);
  };
  return { stdin, stdout, stderr, read: [stdout, stderr], end };
}

function terminalStream(fd: number): ReadStream {
  try {
    return new ReadStream(fd);
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}

/** asm-generic/ioctls.h */
const FIONREAD = 0x541b;

function endStream(stream: Readable, fd: number): void {
  if (stream.destroyed) return;
  const waiting = Buffer.alloc(4);
  tryCall('ioctl', fd, FIONREAD, waiting);
  let rest = waiting.readInt32LE() + stream.readableLength;
  const take = ({ length }: { readonly length: number }) => {
    rest -= length;
    if (rest <= 0) stream.destroy();
  };
  stream.on('data', take);
  take({ length: 0 });
}
