import { type CallersConfiguration, callersText } from '../users/configuration-file.ts';

/**
 * What client and daemon say to each other once the connection is upgraded: the one table, from which
 * scripts/write/wire.ts makes dist/wire/frames.h. Numbers are little-endian.
 *
 * A frame is a header of {@link FRAME.header} bytes (u32 length of the payload, u8 type, u8 number of
 * descriptors, u16 zero) and the payload. Descriptors travel with the first byte of their frame.
 */

/** Sizes in bytes; `descriptors` is the most descriptors of a frame. */
export const FRAME = { header: 8, max: 8 << 20, descriptors: 5 } as const;

export const TO_DAEMON = {
  /**
   * The first frame: u32 umask, u8 terminals (bit N: descriptor N is one), u32 rows, u32 columns, u32 inode of
   * the mount namespace, arguments and environment (each a u32 count and as many texts that end with NUL), the
   * working directory, the path of the caller's own configuration (empty if there is none), u32 errno where it
   * cannot be used, its text. Descriptors: 0, 1, 2 and, unless it is gone, the working directory; none from a user.
   */
  start: 1,
  /**
   * u32 number of a signal that the client received. u32 rows and u32 columns of its terminal, 0 without one.
   */
  signal: 2,
  moved: 4,
  /** All output was passed on: u32 errno of a failed write, or 0. */
  drained: 5,
  /** u8 1 for stdout or 2 for stderr: text for it cannot be written any more. */
  unwritable: 6,
  /** The answer to `open`, in order: u32 0 and the descriptor, or u32 errno. */
  opened: 7,
} as const;

export const TO_CLIENT = {
  /** u8 1 for stdout or 2 for stderr, then bytes to write there. */
  text: 65,
  /** The sandbox's stdin, stdout and stderr as descriptors: move bytes until they end. */
  stdio: 67,
  terminal: 68,
  /** The command has ended, and others hold its stdio: move what is there now, and no more. */
  rest: 73,
  /** A pipe for the client's stdin as a descriptor; u8 1: set the terminal raw. */
  input: 71,
  elsewhere: 69,
  /** Open a file with your own rights: u8 how (see {@link OPEN}), then its path, which ends with NUL. */
  open: 72,
  /**
   * The last frame: u8 0 and u32 exit status (of a command that a signal ended 128 and its number), or u8 1 and u32
   * number of the client's own signal, where it ended the call before a command could hear it. With u8 2 a status of 0
   * is SIGPIPE's where nobody has read standard output to its end.
   */
  exit: 70,
} as const;

/** As Opener of host/files/opener.ts says. */
export const OPEN = {
  file: 1,
  place: 2,
  made: 3,
  folder: 4,
  anew: 5,
  more: 6,
  text: 7,
} as const;

/** Where a worker has its connection to the daemon. */
export const DAEMON_FD = 3;

/** The longest frame to a worker: what a client has sent, with some words. */
export const JOB_MAX = FRAME.max + (1 << 20);

export const TO_WORKER = {
  /**
   * A client to serve: u32 length of its start's payload, that payload, the bytes after it. Descriptors: the
   * connection, then the start's.
   */
  job: 1,
  /** The answer to `wantsTurn`: a parked sandbox's id, and its owner's lock as a descriptor; or empty: start one. */
  turn: 2,
  /**
   * A call of the API: its head as JSON (CallHead of call.ts). Descriptor: a connection for replies, on which
   * requests about the call's command (Control) come as JSON that ends with NUL.
   */
  call: 3,
  /** JSON of a ResultsRequest (results.ts). Descriptors: of the result directory and, to collect, of the sandbox's root. */
  results: 4,
  stop: 5,
  over: 6,
  /** The answer to `wantsRoom`: u8 1 if the user of the job may have a further sandbox. */
  room: 7,
} as const;

export const FROM_WORKER = {
  /** The exit status, the last reply, or `over` has come: u8 1 if the worker takes another job. */
  done: 65,
  /** To start a sandbox, or to get one: JSON of a ParkedWish, or empty where no parked one will do. */
  wantsTurn: 66,
  results: 67,
  /** A user's job wants a further sandbox beside its one. */
  wantsRoom: 68,
  leavesRoom: 69,
  /** The sandbox of a turn has started, or will not. */
  leavesTurn: 71,
  /** The job goes on without its client, which was told so. */
  detached: 72,
  /** What `job`, `call` or `results` asks for is the worker's affair from now on. */
  taken: 70,
} as const;

export interface Start {
  readonly umask: number;
  readonly terminals: readonly [boolean, boolean, boolean];
  readonly rows: number;
  readonly columns: number;
  /** Inode of the caller's mount namespace. */
  readonly mountNamespace: number;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly configuration: CallersConfiguration | undefined;
}

class PayloadReader {
  readonly #payload: Buffer;
  #at = 0;

  constructor(payload: Buffer) {
    this.#payload = payload;
  }

  u8(): number {
    const value = this.#payload.readUInt8(this.#at);
    this.#at += 1;
    return value;
  }

  u32(): number {
    const value = this.#payload.readUInt32LE(this.#at);
    this.#at += 4;
    return value;
  }

  text(): string {
    return this.bytes().toString('utf8');
  }

  /** Of a text, as they came. */
  bytes(): Buffer {
    const end = this.#payload.indexOf(0, this.#at);
    if (end === -1) throw new RangeError('a text has no end');
    const bytes = this.#payload.subarray(this.#at, end);
    this.#at = end + 1;
    return bytes;
  }

  /** @throws RangeError, and TooManyTexts before anything is allocated */
  texts(most: number): string[] {
    const count = this.u32();
    if (count > most) throw new TooManyTexts(count, most);
    // Each text has at least one byte, so a count that is too large is detected before anything is allocated.
    if (count > this.#payload.length - this.#at) throw new RangeError('too few texts');
    return Array.from({ length: count }, () => this.text());
  }

  end(): void {
    if (this.#at !== this.#payload.length) throw new RangeError('bytes are left over');
  }
}

/** As podman and docker have it. */
export const KILN_FAILED = 125;

/** Arguments, or variables, of a user's start: more than any program has, and few enough for the daemon's own thread. */
const USER_TEXTS = { arguments: 65_536, variables: 8192 } as const;

export class TooManyTexts extends RangeError {
  constructor(count: number, most: number) {
    super(`${count} arguments or variables are more than the ${most} that kilnd takes of a user`);
  }
}

/** @throws RangeError */
export function readStart(payload: Buffer, isUser = false): Start {
  const most = (kind: keyof typeof USER_TEXTS) =>
    isUser ? USER_TEXTS[kind] : Number.POSITIVE_INFINITY;
  const reader = new PayloadReader(payload);
  const umask = reader.u32() & 0o777;
  const terminals = reader.u8();
  // A terminal's size has 16 bits: struct winsize of ioctl_tty(2).
  const [rows, columns] = [reader.u32() & 0xffff, reader.u32() & 0xffff];
  const mountNamespace = reader.u32();
  const argv = reader.texts(most('arguments'));
  const env: Record<string, string> = Object.create(null);
  for (const entry of reader.texts(most('variables'))) {
    const equals = entry.indexOf('=');
    // As with getenv(3), the first of several wins.
    const name = equals === -1 ? entry : entry.slice(0, equals);
    if (equals !== -1) env[name] ??= entry.slice(equals + 1);
  }
  const cwd = reader.text();
  const own = callersText(reader.text(), reader.u32(), reader.bytes());
  reader.end();
  const terminal = (fd: number) => (terminals & (1 << fd)) !== 0;
  return {
    umask,
    terminals: [terminal(0), terminal(1), terminal(2)],
    rows,
    columns,
    mountNamespace,
    argv,
    env,
    cwd,
    configuration: own.file === '' ? undefined : own,
  };
}

export function encodeFrame(type: number, payload: Buffer, descriptors = 0): Buffer {
  const frame = Buffer.allocUnsafe(FRAME.header + payload.length);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt8(type, 4);
  frame.writeUInt8(descriptors, 5);
  frame.writeUInt16LE(0, 6);
  payload.copy(frame, FRAME.header);
  return frame;
}

export function u32s(...values: readonly number[]): Buffer {
  const payload = Buffer.allocUnsafe(4 * values.length);
  for (const [index, value] of values.entries()) payload.writeUInt32LE(value >>> 0, 4 * index);
  return payload;
}

export interface Frame {
  readonly type: number;
  readonly payload: Buffer;
  readonly fds: readonly number[];
}

export function readFrame(
  peer: { takeDescriptors(count: number): readonly number[] | undefined },
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
