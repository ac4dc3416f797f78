/** The stdio of a command: what the init gets of it, what this process or another keeps. */
import { Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, createPipe, type Pipe } from '../../host/calls/descriptor.ts';
import { tryCall } from '../../host/calls/system-call.ts';
import { receiveDescriptor, unixSocketPair } from '../../host/sockets/unix-socket.ts';

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
