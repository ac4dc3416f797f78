import { Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import type { Lane } from '../../host/sockets/relay.ts';

/** The host's ends of a command's stdio: three pipes, or the master of its terminal. */
export type HostStdio =
  | { readonly stdin: number; readonly stdout: number; readonly stderr: number }
  | { readonly terminal: number };

/** Descriptors of the caller's to which output is moved without being read. */
export interface RelayedOutput {
  readonly stdout?: number;
  readonly stderr?: number;
}

/**
 * Passes the host's ends of a command's stdio to another process, which moves the bytes and owns the
 * descriptors from then on.
 */
export type HandOver = (stdio: HostStdio) => HandedStdio;

/** Stdio that another process moves. */
export interface HandedStdio {
  /** Calls `listener` whenever output was passed on. */
  readonly onMoved: (listener: () => void) => void;
  /** Resolves when all output was passed on; rejects if some could not be. */
  readonly drained: Promise<void>;
}

/** The host's ends of a command's stdio as streams. They can exist before the command runs. */
export interface CommandStreams {
  readonly stdin: Writable;
  /** With a terminal, all output of the command; then it is the same stream as stdin. */
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** The streams above that have output. */
  readonly read: readonly Readable[];
  /** Output that is moved on without being read. */
  readonly lanes: readonly Lane[];
  /** Set if another process moves everything; the streams are empty then. */
  readonly handed?: HandedStdio;
}

/** The streams of a command whose stdio another process moves. */
export function handedStreams(handed: HandedStdio): CommandStreams {
  const stdin = new Writable();
  stdin.destroy();
  const [stdout, stderr] = [Readable.from([]), Readable.from([])];
  return { stdin, stdout, stderr, read: [], lanes: [], handed };
}

/** Opens streams on descriptors and takes them over, except those of `lanes`. */
export function openStreams(stdio: HostStdio, relayed: RelayedOutput): CommandStreams {
  if ('terminal' in stdio) {
    const terminal = new ReadStream(stdio.terminal);
    // A terminal without users answers EIO; that is its end of file.
    terminal.on('error', () => terminal.destroy());
    const stderr = Readable.from([]);
    return { stdin: terminal, stdout: terminal, stderr, read: [terminal], lanes: [] };
  }
  const stdin = new Socket({ fd: stdio.stdin, readable: false, writable: true });
  // The command may not read its input.
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

/** Closes the streams of a command that did not start. */
export function abandonStreams({ stdin, read, lanes }: CommandStreams): void {
  stdin.destroy();
  for (const stream of read) stream.destroy();
  for (const { from } of lanes) closeDescriptor(from);
}
