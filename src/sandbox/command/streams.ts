import { Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import type { Lane } from '../../host/sockets/relay.ts';

/** The host's ends of a command's stdio: three pipes, or the master of its terminal. */
export type HostStdio =
  | { readonly stdin: number; readonly stdout: number; readonly stderr: number }
  | { readonly terminal: number };

/** Descriptors of the caller's that output goes to without being read on the way. */
export interface RelayedOutput {
  readonly stdout?: number;
  readonly stderr?: number;
}

/**
 * Gives the host's ends of a command's stdio to another process, which moves the bytes; the descriptors are
 * its own from here on.
 */
export type HandOver = (stdio: HostStdio) => HandedStdio;

/** Stdio that another process has. */
export interface HandedStdio {
  /** Calls `listener` whenever output has been passed on. */
  readonly onMoved: (listener: () => void) => void;
  /** Resolves when all output has been passed on; rejects with the reason where some could not be. */
  readonly drained: Promise<void>;
}

/** The host's ends of a command's stdio as streams. They can be there before it runs. */
export interface CommandStreams {
  readonly stdin: Writable;
  /** With a terminal, everything the command writes, and the same stream as stdin. */
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Those of the above that output comes out of. */
  readonly read: readonly Readable[];
  /** Output that is to be moved on without being read. */
  readonly lanes: readonly Lane[];
  /** Another process has all of it; the streams are empty. */
  readonly handed?: HandedStdio;
}

/** Streams of a command whose stdio another process has. */
export function handedStreams(handed: HandedStdio): CommandStreams {
  const stdin = new Writable();
  stdin.destroy();
  const [stdout, stderr] = [Readable.from([]), Readable.from([])];
  return { stdin, stdout, stderr, read: [], lanes: [], handed };
}

/** Opens streams on descriptors, which are theirs from here on, but for those of `lanes`. */
export function openStreams(stdio: HostStdio, relayed: RelayedOutput): CommandStreams {
  if ('terminal' in stdio) {
    const terminal = new ReadStream(stdio.terminal);
    // A terminal whose last user is gone answers EIO: that is its end of file.
    terminal.on('error', () => terminal.destroy());
    const stderr = Readable.from([]);
    return { stdin: terminal, stdout: terminal, stderr, read: [terminal], lanes: [] };
  }
  const stdin = new Socket({ fd: stdio.stdin, readable: false, writable: true });
  // The command need not read what it is given.
  stdin.on('error', () => stdin.destroy());
  const read: Readable[] = [];
  const lanes: Lane[] = [];
  const output = (name: 'stdout' | 'stderr') => {
    const to = relayed[name];
    if (to !== undefined) {
      lanes.push({ from: stdio[name], to });
      return Readable.from([]);
    }
    const stream = new Socket({ fd: stdio[name], readable: true, writable: false });
    read.push(stream);
    return stream;
  };
  return { stdin, stdout: output('stdout'), stderr: output('stderr'), read, lanes };
}

/** Closes all streams of a command that did not start. */
export function abandonStreams({ stdin, read, lanes }: CommandStreams): void {
  stdin.destroy();
  for (const stream of read) stream.destroy();
  for (const { from } of lanes) closeDescriptor(from);
}
