/** A client with one command line: its connection after the upgrade, frame by frame. */
import { EventEmitter } from 'node:events';
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { errnoName, SyscallError } from '../host/calls/libc.ts';
import { deferred } from '../promise.ts';
import {
  encodeFrame,
  FRAME,
  OPEN,
  readStart,
  type Start,
  TO_CLIENT,
  TO_DAEMON,
  u32s,
} from './frames.ts';
import { Peer } from './peer.ts';

const signalNames = new Map<number, NodeJS.Signals>(
  Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
);

/** Bytes of text in one frame. */
const TEXT_MAX = 64 * 1024;

/** More bytes of frames before it is known which process serves the client cannot be a person's signals. */
const SINCE_MAX = 64 * 1024;

interface CommandLineEvents {
  /** The client received a signal. */
  signal: [signal: NodeJS.Signals];
  /** Output of the sandbox was passed on. */
  moved: [];
  /** All output was passed on; `error` is the symbol of an errno if some could not be written. */
  drained: [error: string | undefined];
  /** Text for this output cannot be written any more. */
  unwritable: [fd: 1 | 2];
  /** The client is gone. */
  gone: [];
}

/** The client's descriptors, open until {@link CommandLine.close}. A user's client sends none. */
export interface ClientDescriptors {
  readonly stdin: number | undefined;
  readonly stdout: number | undefined;
  readonly stderr: number | undefined;
  /** The working directory (O_PATH), unless it is gone. */
  readonly cwd: number | undefined;
}

/** A client on its way to another process. The holder closes the descriptors. */
export interface ReleasedClient {
  readonly connection: number;
  /** The payload of its start frame. */
  readonly payload: Buffer;
  /** The bytes after the start frame. */
  readonly rest: Buffer;
  /** The descriptors of its start frame. */
  readonly descriptors: readonly number[];
}

export class CommandLine extends EventEmitter<CommandLineEvents> {
  readonly start: Start;
  readonly descriptors: ClientDescriptors;
  readonly #peer: Peer;
  readonly #payload: Buffer;
  /**
   * Frames since the start, for another process that may serve the client; undefined once the serving process
   * is known.
   */
  #since: Buffer[] | undefined = [];
  #sinceBytes = 0;
  #closed = false;
  /** Open requests to the client, oldest first. */
  readonly #opening: PromiseWithResolvers<number>[] = [];

  private constructor(peer: Peer, payload: Buffer, descriptors: ClientDescriptors) {
    super();
    this.#peer = peer;
    // The connection reuses its buffer.
    this.#payload = Buffer.from(payload);
    this.start = readStart(payload);
    this.descriptors = descriptors;
  }

  get identity(): Peer['identity'] {
    return this.#peer.identity;
  }

  /** Whether the client is still there. */
  get gone(): boolean {
    return this.#peer.ended;
  }

  /** Reads the first frame of `bytes`. Returns how many bytes are missing, or 0 if it is not a start frame. */
  static begin(peer: Peer, bytes: Buffer): CommandLine | undefined | 'incomplete' {
    const frame = readFrame(peer, bytes);
    if (frame === undefined || frame === 'broken') {
      return frame === undefined ? 'incomplete' : undefined;
    }
    const [stdin, stdout, stderr, cwd] = frame.fds;
    try {
      if (frame.type !== TO_DAEMON.start) throw new RangeError('no start');
      if (peer.identity.uid === 0 && stderr === undefined) {
        throw new RangeError('descriptors are missing');
      }
      return new CommandLine(peer, frame.payload, { stdin, stdout, stderr, cwd });
    } catch {
      for (const fd of frame.fds) closeSync(fd);
      return undefined;
    }
  }

  /** Takes the next frame of `bytes` and returns its length, 0 if it is incomplete. */
  receive(bytes: Buffer): number {
    const frame = readFrame(this.#peer, bytes);
    if (frame === undefined) return 0;
    if (frame === 'broken' || !this.#act(frame)) {
      this.#peer.destroy();
      return bytes.length;
    }
    const length = FRAME.header + frame.payload.length;
    if (this.#since !== undefined) {
      this.#since.push(Buffer.from(bytes.subarray(0, length)));
      this.#sinceBytes += length;
      if (this.#sinceBytes > SINCE_MAX) this.#peer.destroy();
    }
    return length;
  }

  /** Takes over a client, with its start frame, from another process. */
  static adopt(
    connection: number,
    payload: Buffer,
    [stdin, stdout, stderr, cwd]: readonly number[],
    rest: Buffer,
  ): CommandLine {
    const peer: Peer = new Peer(
      connection,
      {
        data: (bytes) => line.receive(bytes),
        end: () => line.ended(),
      },
      // This process has no other caller that could be blocked.
      { trusted: 'everybody' },
    );
    const line = new CommandLine(peer, payload, { stdin, stdout, stderr, cwd });
    line.keep();
    // In a later turn, after listeners were added.
    setImmediate(() => peer.take(rest));
    return line;
  }

  /** Decides that this process serves the client to the end. */
  keep(): void {
    this.#since = undefined;
  }

  /** Gives up the client to another process, which gets all of this. */
  release(): ReleasedClient {
    this.removeAllListeners();
    this.#closed = true;
    const { fd, rest } = this.#peer.release();
    return {
      connection: fd,
      payload: this.#payload,
      rest: Buffer.concat([...(this.#since ?? []), rest]),
      descriptors: this.#open(),
    };
  }

  /** Bytes of output that the client has not taken yet. */
  get waiting(): number {
    return this.#peer.unsentBytes;
  }

  /** Resolves when the client has everything that was written, or is gone. */
  sent(): Promise<void> {
    return this.#peer.sent();
  }

  /** The connection is over. */
  ended(): void {
    for (const { reject } of this.#opening.splice(0)) reject(new Error('the client is gone'));
    this.emit('gone');
  }

  /**
   * Has the client open a file with its own rights; the caller closes the descriptor. A stranger may send any
   * descriptor, and reading it may block as long as its file system likes. @throws SyscallError with the
   * client's errno
   */
  open(how: keyof typeof OPEN, path: string): Promise<number> {
    const answer = deferred<number>();
    const error = new SyscallError('open', constants.errno.ENOENT, path);
    if (this.gone || path.includes('\0') || path === '') return Promise.reject(error);
    this.#opening.push({
      ...answer,
      reject: (why) =>
        answer.reject(typeof why === 'number' ? new SyscallError('open', why, path) : why),
    });
    const payload = Buffer.concat([Buffer.of(OPEN[how]), Buffer.from(`${path}\0`)]);
    this.#peer.send(encodeFrame(TO_CLIENT.open, payload));
    return answer.promise;
  }

  #opened(payload: Buffer, fds: readonly number[]): boolean {
    const asked = this.#opening.shift();
    const [fd] = fds;
    const errno = payload.length === 4 ? payload.readUInt32LE(0) : undefined;
    if (asked !== undefined && errno === 0 && fd !== undefined && fds.length === 1) {
      asked.resolve(fd);
      return true;
    }
    for (const one of fds) closeSync(one);
    if (asked === undefined || errno === undefined || errno === 0) return false;
    asked.reject(errno);
    return true;
  }

  #act({ type, payload, fds }: Frame): boolean {
    if (type === TO_DAEMON.opened) return this.#opened(payload, fds);
    // Of a client's frames, only the first and answers to open requests may have descriptors.
    for (const fd of fds) closeSync(fd);
    if (fds.length > 0) return false;
    switch (type) {
      case TO_DAEMON.signal: {
        const signal = payload.length === 4 ? signalNames.get(payload.readUInt32LE(0)) : undefined;
        if (signal !== undefined) this.emit('signal', signal);
        return signal !== undefined;
      }
      case TO_DAEMON.moved:
        this.emit('moved');
        return payload.length === 0;
      case TO_DAEMON.unwritable: {
        const fd = payload.length === 1 ? payload.readUInt8(0) : 0;
        if (fd === 1 || fd === 2) this.emit('unwritable', fd);
        return fd === 1 || fd === 2;
      }
      case TO_DAEMON.drained: {
        if (payload.length !== 4) return false;
        const errno = payload.readUInt32LE(0);
        this.emit('drained', errno === 0 ? undefined : errnoName(errno));
        return true;
      }
      default:
        return false;
    }
  }

  /** Writes text of kiln's own to the client's stdout (1) or stderr (2). */
  write(fd: 1 | 2, text: string | Buffer): void {
    const bytes = Buffer.from(text as string);
    for (let at = 0; at < bytes.length; at += TEXT_MAX) {
      const payload = Buffer.concat([Buffer.of(fd), bytes.subarray(at, at + TEXT_MAX)]);
      this.#peer.send(encodeFrame(TO_CLIENT.text, payload));
    }
  }

  /** Passes the host's ends of a command's stdio to the client, which owns them from now on. */
  passStdio(stdin: number, stdout: number, stderr: number): void {
    const fds = [stdin, stdout, stderr];
    this.#peer.send(encodeFrame(TO_CLIENT.stdio, Buffer.alloc(0), fds.length), fds);
  }

  /** Passes the master of a command's terminal to the client. */
  passTerminal(master: number): void {
    this.#peer.send(encodeFrame(TO_CLIENT.terminal, Buffer.alloc(0), 1), [master]);
  }

  /** Has the client write its stdin into a pipe, which the client owns from now on. */
  passInput(pipe: number, raw: boolean): void {
    this.#peer.send(encodeFrame(TO_CLIENT.input, Buffer.of(raw ? 1 : 0), 1), [pipe]);
  }

  /** Has the client run its command line in a process of its own, and gives it up. */
  sendElsewhere(): void {
    this.#peer.send(encodeFrame(TO_CLIENT.elsewhere, Buffer.alloc(0)));
    this.#close();
  }

  /** Tells the client how to end, and gives it up. */
  exit(end: { readonly status: number } | { readonly signal: NodeJS.Signals }): void {
    const isSignal = 'signal' in end;
    const value = isSignal ? (constants.signals[end.signal] ?? 0) : end.status;
    const payload = Buffer.concat([Buffer.of(isSignal ? 1 : 0), u32s(value)]);
    this.#peer.send(encodeFrame(TO_CLIENT.exit, payload));
    this.#close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.#open()) closeSync(fd);
    this.#peer.end();
  }

  #open(): number[] {
    const { stdin, stdout, stderr, cwd } = this.descriptors;
    return [stdin, stdout, stderr, cwd].filter((fd) => fd !== undefined);
  }

  /** Ends the connection; the serving code is told that the client is gone. */
  abort(): void {
    this.#peer.destroy();
  }

  /** Gives up a client that is gone. */
  abandon(): void {
    this.#close();
  }
}

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

/** The first frame of `bytes` with its descriptors; undefined if it is incomplete. */
export function readFrame(
  peer: Peer,
  bytes: Buffer,
  max: number = FRAME.max,
): Frame | undefined | 'broken' {
  if (bytes.length < FRAME.header) return undefined;
  const length = bytes.readUInt32LE(0);
  const [type, count, reserved] = [bytes.readUInt8(4), bytes.readUInt8(5), bytes.readUInt16LE(6)];
  if (length > max || count > FRAME.descriptors || reserved !== 0) return 'broken';
  if (bytes.length < FRAME.header + length) return undefined;
  const fds = peer.takeDescriptors(count);
  if (fds === undefined) return 'broken';
  return { type, payload: bytes.subarray(FRAME.header, FRAME.header + length), fds };
}
