/** A client with one command line: its connection after the upgrade, frame by frame. */
import { EventEmitter } from 'node:events';
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { basename } from 'node:path';
import { errnoName, SyscallError } from '../host/calls/libc.ts';
import { signalName, signalNumber } from '../host/process/signals.ts';
import { deferred } from '../promise.ts';
import {
  encodeFrame,
  FRAME,
  type Frame,
  KILN_FAILED,
  OPEN,
  readFrame,
  readStart,
  type Start,
  TO_CLIENT,
  TO_DAEMON,
  TooManyTexts,
  u32s,
} from './frames.ts';
import { Peer } from './peer.ts';

const TEXT_MAX = 64 * 1024;

/** More bytes of frames before it is known which process serves the client cannot be a person's signals. */
const SINCE_MAX = 64 * 1024;

interface CommandLineEvents {
  newListener: [event: string];
  signal: [signal: NodeJS.Signals];
  moved: [];
  drained: [error: string | undefined];
  unwritable: [fd: 1 | 2];
  gone: [];
}

/** Open until {@link CommandLine.close}. A user's client sends none. */
export interface ClientDescriptors {
  readonly stdin: number | undefined;
  readonly stdout: number | undefined;
  readonly stderr: number | undefined;
  /** O_PATH; undefined if the folder is gone. */
  readonly cwd: number | undefined;
}

export interface ReleasedClient {
  readonly connection: number;
  readonly payload: Buffer;
  readonly rest: Buffer;
  readonly descriptors: readonly number[];
}

export class CommandLine extends EventEmitter<CommandLineEvents> {
  readonly start: Start;
  readonly descriptors: ClientDescriptors;
  readonly #peer: Peer;
  readonly #payload: Buffer;
  #since: Buffer[] | undefined = [];
  /** Signals that no listener has heard yet, each once, as the kernel keeps them. */
  readonly #early = new Set<NodeJS.Signals>();
  #sinceBytes = 0;
  #closed = false;
  #window: { readonly rows: number; readonly columns: number } | undefined;
  readonly #opening: PromiseWithResolvers<number>[] = [];

  private constructor(peer: Peer, payload: Buffer, descriptors: ClientDescriptors) {
    super();
    this.#peer = peer;
    // The connection reuses its buffer.
    this.#payload = Buffer.from(payload);
    this.start = readStart(payload, peer.identity.uid !== 0);
    this.descriptors = descriptors;
    this.on('newListener', (event) => {
      if (event === 'signal') process.nextTick(() => this.#tellEarly());
    });
  }

  #tellEarly(): void {
    for (const signal of this.#early) if (this.emit('signal', signal)) this.#early.delete(signal);
  }

  /** The words behind `kiln`; those of `kiln-mock` begin with `mock`. */
  get words(): readonly string[] {
    const [program = '', ...words] = this.start.argv;
    return basename(program) === 'kiln-mock' ? ['mock', ...words] : words;
  }

  get identity(): Peer['identity'] {
    return this.#peer.identity;
  }

  openProcess(): number | undefined {
    return this.#peer.openProcess();
  }

  get gone(): boolean {
    return this.#peer.ended;
  }

  static begin(peer: Peer, bytes: Buffer): CommandLine | undefined | 'incomplete' {
    const frame = readFrame(peer, bytes);
    if (frame === undefined) return 'incomplete';
    if (frame === 'broken') return undefined;
    const [stdin, stdout, stderr, cwd] = frame.fds;
    try {
      if (frame.type !== TO_DAEMON.start) throw new RangeError('no start');
      if (peer.identity.uid === 0 && stderr === undefined) {
        throw new RangeError('descriptors are missing');
      }
      return new CommandLine(peer, frame.payload, { stdin, stdout, stderr, cwd });
    } catch (error) {
      for (const fd of frame.fds) closeSync(fd);
      if (error instanceof TooManyTexts) {
        const text = `kiln: ${error.message} [E_ARGUMENT]\n  hint: give fewer words, or put them into a file\n`;
        peer.send(encodeFrame(TO_CLIENT.text, Buffer.concat([Buffer.of(2), Buffer.from(text)])));
        const status = Buffer.concat([Buffer.of(0), u32s(KILN_FAILED)]);
        peer.send(encodeFrame(TO_CLIENT.exit, status));
      }
      return undefined;
    }
  }

  receive(bytes: Buffer): number {
    const frame = readFrame(this.#peer, bytes);
    if (frame === undefined) return 0;
    if (frame === 'broken' || !this.#act(frame)) {
      this.#peer.destroy();
      return bytes.length;
    }
    const length = FRAME.header + frame.payload.length;
    // What was opened is this process's.
    if (this.#since !== undefined && frame.type !== TO_DAEMON.opened) {
      this.#since.push(Buffer.from(bytes.subarray(0, length)));
      this.#sinceBytes += length;
      if (this.#sinceBytes > SINCE_MAX) this.#peer.destroy();
    }
    return length;
  }

  static adopt(
    connection: number,
    payload: Buffer,
    [stdin, stdout, stderr, cwd]: readonly number[],
    rest: Buffer,
  ): CommandLine {
    const events = {
      data: (bytes: Buffer) => line.receive(bytes),
      end: () => line.ended(),
    };
    // This process has no other caller that could be blocked.
    const peer = new Peer(connection, events, { trusted: 'everybody' });
    const line: CommandLine = new CommandLine(peer, payload, { stdin, stdout, stderr, cwd });
    line.keep();
    // In a later turn, after listeners were added.
    setImmediate(() => peer.take(rest));
    return line;
  }

  /** Of the client's terminal; no rows without one. Whoever has its descriptors may know better. */
  get windowSize(): { readonly rows: number; readonly columns: number } {
    return this.#window ?? this.start;
  }

  #resize(rows: number, columns: number): void {
    // struct winsize of ioctl_tty(2) has room for no more.
    const isOne = rows > 0 && rows <= 0xffff && columns <= 0xffff;
    if (isOne) this.#window = { rows, columns };
  }

  keep(): void {
    this.#since = undefined;
  }

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

  get waiting(): number {
    return this.#peer.unsentBytes;
  }

  sent(): Promise<void> {
    return this.#peer.sent();
  }

  ended(): void {
    for (const { reject } of this.#opening.splice(0)) reject(new Error('the client is gone'));
    this.emit('gone');
  }

  /**
   * With the client's own rights; the caller closes the descriptor. A stranger may send any descriptor, and
   * reading it may block as long as its file system likes. @throws SyscallError with the client's errno
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
        const signal = payload.length === 12 ? signalName(payload.readUInt32LE(0)) : undefined;
        if (signal === 'SIGWINCH') this.#resize(payload.readUInt32LE(4), payload.readUInt32LE(8));
        if (signal !== undefined && !this.emit('signal', signal)) this.#early.add(signal);
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

  write(fd: 1 | 2, text: string | Buffer): void {
    const bytes = Buffer.from(text as string);
    for (let at = 0; at < bytes.length; at += TEXT_MAX) {
      const payload = Buffer.concat([Buffer.of(fd), bytes.subarray(at, at + TEXT_MAX)]);
      this.#peer.send(encodeFrame(TO_CLIENT.text, payload));
    }
  }

  /** The client owns the descriptors from now on. */
  passStdio(stdin: number, stdout: number, stderr: number): void {
    const fds = [stdin, stdout, stderr];
    this.#peer.send(encodeFrame(TO_CLIENT.stdio, Buffer.alloc(0), fds.length), fds);
  }

  passTerminal(master: number): void {
    this.#peer.send(encodeFrame(TO_CLIENT.terminal, Buffer.alloc(0), 1), [master]);
  }

  endStdio(): void {
    this.#peer.send(encodeFrame(TO_CLIENT.rest, Buffer.alloc(0)));
  }

  /** The client writes its stdin into the pipe, and owns it from now on. */
  passInput(pipe: number, raw: boolean): void {
    this.#peer.send(encodeFrame(TO_CLIENT.input, Buffer.of(raw ? 1 : 0), 1), [pipe]);
  }

  sendElsewhere(): void {
    this.#peer.send(encodeFrame(TO_CLIENT.elsewhere, Buffer.alloc(0)));
    this.abandon();
  }

  /** @param isOutputAll standard output is what the command was for */
  exit(
    end: { readonly status: number } | { readonly signal: NodeJS.Signals },
    isOutputAll = false,
  ): void {
    const isSignal = 'signal' in end;
    const value = isSignal ? signalNumber(end.signal) : end.status;
    const kind = isSignal ? 1 : isOutputAll ? 2 : 0;
    const payload = Buffer.concat([Buffer.of(kind), u32s(value)]);
    this.#peer.send(encodeFrame(TO_CLIENT.exit, payload));
    this.abandon();
  }

  abandon(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.#open()) closeSync(fd);
    this.#peer.end();
  }

  #open(): number[] {
    const { stdin, stdout, stderr, cwd } = this.descriptors;
    return [stdin, stdout, stderr, cwd].filter((fd) => fd !== undefined);
  }

  abort(): void {
    this.#peer.destroy();
  }
}
