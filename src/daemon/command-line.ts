/** A client that runs one command line: the connection after its upgrade, frame by frame. */
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

/** More frames than this before it is clear who serves the client are no signals of a person's, bytes. */
const SINCE_MAX = 64 * 1024;

interface CommandLineEvents {
  /** The client got a signal. */
  signal: [signal: NodeJS.Signals];
  /** Output of the sandbox has been passed on. */
  moved: [];
  /** All output has been passed on; `error` is the symbol of an errno where some could not be written. */
  drained: [error: string | undefined];
  /** Text for this output cannot be written any more. */
  unwritable: [fd: 1 | 2];
  /** The client is gone: nobody waits for anything any more. */
  gone: [];
}

/** Descriptors of the client's, in force until {@link CommandLine.close}. Of a user's client none are taken. */
export interface ClientDescriptors {
  readonly stdin: number | undefined;
  readonly stdout: number | undefined;
  readonly stderr: number | undefined;
  /** Of the working directory (O_PATH), unless it is gone. */
  readonly cwd: number | undefined;
}

/** A client on its way to another process; the descriptors are the holder's to close. */
export interface ReleasedClient {
  readonly connection: number;
  /** Of its start. */
  readonly payload: Buffer;
  /** What came after it. */
  readonly rest: Buffer;
  /** As its start had them. */
  readonly descriptors: readonly number[];
}

export class CommandLine extends EventEmitter<CommandLineEvents> {
  readonly start: Start;
  readonly descriptors: ClientDescriptors;
  readonly #peer: Peer;
  readonly #payload: Buffer;
  /** Frames since the start, for whoever else may serve the client; none once it is clear who does. */
  #since: Buffer[] | undefined = [];
  #sinceBytes = 0;
  #closed = false;
  /** Files that the client has been asked to open, the first one first. */
  readonly #opening: PromiseWithResolvers<number>[] = [];

  private constructor(peer: Peer, payload: Buffer, descriptors: ClientDescriptors) {
    super();
    this.#peer = peer;
    // The bytes of a connection are used again.
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

  /** Reads the first frame of `bytes`. A number: so many bytes are missing or, 0, it is not a start. */
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

  /** Takes the next frame of `bytes`; how many bytes it had, 0 if it is not whole. */
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

  /** A client whose connection another process had first, and its start with it. */
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
      // This process has no other caller who could be held up.
      { trusted: 'everybody' },
    );
    const line = new CommandLine(peer, payload, { stdin, stdout, stderr, cwd });
    line.keep();
    // In a later turn, when somebody listens.
    setImmediate(() => peer.take(rest));
    return line;
  }

  /** It is clear that this process serves the client to the end. */
  keep(): void {
    this.#since = undefined;
  }

  /** Lets go of the client for another process, which is to be given all of this. */
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

  /** Bytes of output that wait until the client takes them. */
  get waiting(): number {
    return this.#peer.unsentBytes;
  }

  /** Resolves once the client has all that was written, or is gone. */
  sent(): Promise<void> {
    return this.#peer.sent();
  }

  /** The connection is over. */
  ended(): void {
    for (const { reject } of this.#opening.splice(0)) reject(new Error('the client is gone'));
    this.emit('gone');
  }

  /**
   * Has the client open a file with its own rights; the caller closes the descriptor. It is whatever the client
   * gives, which may be a stranger: nothing but its own file system knows what becomes of whoever reads it.
   * @throws SyscallError with the client's errno
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
    // No other frame of a client's but the first has descriptors that anybody waits for.
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

  /** Hands the host's ends of a command's stdio over; they are the client's from here on. */
  passStdio(stdin: number, stdout: number, stderr: number): void {
    const fds = [stdin, stdout, stderr];
    this.#peer.send(encodeFrame(TO_CLIENT.stdio, Buffer.alloc(0), fds.length), fds);
  }

  /** Hands the master of a command's terminal over. */
  passTerminal(master: number): void {
    this.#peer.send(encodeFrame(TO_CLIENT.terminal, Buffer.alloc(0), 1), [master]);
  }

  /** Has the client write what its stdin gives into a pipe, which is the client's from here on. */
  passInput(pipe: number, raw: boolean): void {
    this.#peer.send(encodeFrame(TO_CLIENT.input, Buffer.of(raw ? 1 : 0), 1), [pipe]);
  }

  /** Has the client run its command line in a process of its own, and lets go of it. */
  sendElsewhere(): void {
    this.#peer.send(encodeFrame(TO_CLIENT.elsewhere, Buffer.alloc(0)));
    this.#close();
  }

  /** Tells the client how to end, and lets go of it. */
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

  /** Ends the connection: whoever serves the client is told that it is gone. */
  abort(): void {
    this.#peer.destroy();
  }

  /** Lets go of the client without a word: it is gone. */
  abandon(): void {
    this.#close();
  }
}

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

/** The first frame of `bytes`, with its descriptors; undefined if it is not whole. */
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
