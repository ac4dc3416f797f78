/**
 * What client and daemon say to each other once the connection is upgraded: the one table, from which
 * scripts/write-wire.ts makes src/client/frames.h. Numbers are little-endian.
 *
 * A frame is a header of {@link FRAME.header} bytes (u32 length of the payload, u8 type, u8 number of
 * descriptors, u16 zero) and the payload. Descriptors travel with the first byte of their frame.
 */

/** Sizes in bytes; `descriptors` is the most descriptors of a frame. */
export const FRAME = { header: 8, max: 8 << 20, descriptors: 5 } as const;

/** Frames from the client. */
export const TO_DAEMON = {
  /**
   * The first frame: u32 umask, u8 terminals (bit N: descriptor N is one), u32 rows, u32 columns, u32 inode of
   * the mount namespace, arguments and environment (each a u32 count and as many texts that end with NUL), the
   * working directory. Descriptors: 0, 1, 2 and, unless it is gone, the working directory; none from a user.
   */
  start: 1,
  /** u32 number of a signal that the client received; SIGWINCH if it does not have the sandbox's terminal. */
  signal: 2,
  /** Output of the sandbox was passed on. */
  moved: 4,
  /** All output was passed on: u32 errno of a failed write, or 0. */
  drained: 5,
  /** u8 1 for stdout or 2 for stderr: text for it cannot be written any more. */
  unwritable: 6,
  /** The answer to `open`, in order: u32 0 and the descriptor, or u32 errno. */
  opened: 7,
} as const;

/** Frames from the daemon. */
export const TO_CLIENT = {
  /** u8 1 for stdout or 2 for stderr, then bytes to write there. */
  text: 65,
  /** The sandbox's stdin, stdout and stderr as descriptors: move bytes until they end. */
  stdio: 67,
  /** The master of the sandbox's terminal as a descriptor. */
  terminal: 68,
  /** A pipe for the client's stdin as a descriptor; u8 1: set the terminal raw. */
  input: 71,
  /** Run the command line in a process of your own. */
  elsewhere: 69,
  /** Open a file with your own rights: u8 how (see {@link OPEN}), then its path, which ends with NUL. */
  open: 72,
  /** The last frame: u8 0 and u32 exit status, or u8 1 and u32 number of the signal that ended the command. */
  exit: 70,
} as const;

/** How a client opens a file; a path is relative to the client's working directory. */
export const OPEN = {
  /** For reading, without waiting, whatever kind of file it is. */
  file: 1,
  /** As a place (O_PATH). */
  place: 2,
  /** A folder, which is made with missing parents. */
  made: 3,
} as const;

/** Frames between a daemon and a worker process, which has the client's connection while it works. */
export const TO_WORKER = {
  /**
   * A client to serve: u32 length of its start's payload, that payload, the bytes after it. Descriptors: the
   * connection, then the start's.
   */
  job: 1,
  /**
   * The answer to `wantsParked`: a sandbox's id and, as a descriptor, its owner's lock; empty if none is
   * parked.
   */
  parked: 2,
  /**
   * A call of the API: its head as JSON (CallHead of call.ts). Descriptor: a connection for replies, on which
   * requests about the call's command (Control) come as JSON that ends with NUL.
   */
  call: 3,
  /** JSON of a ResultsRequest (results.ts). To collect artifacts, the descriptor of the sandbox's root. */
  results: 4,
  /** Ends the work of `results`: nobody waits for it. */
  stop: 5,
  /** No more `results` of this run will come. */
  over: 6,
} as const;

export const FROM_WORKER = {
  /**
   * The client has its exit status, the call its last reply, or `over` has come: u8 1 if the worker takes
   * another job.
   */
  done: 65,
  /** A parked sandbox is wanted. */
  wantsParked: 66,
  /** JSON of a ResultsAnswer. */
  results: 67,
} as const;

/** The client's first message. */
export interface Start {
  readonly umask: number;
  /** Which of descriptors 0, 1 and 2 are terminals. */
  readonly terminals: readonly [boolean, boolean, boolean];
  readonly rows: number;
  readonly columns: number;
  /** Inode of the caller's mount namespace. */
  readonly mountNamespace: number;
  /** The program's name first. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Absolute; empty if the directory is gone. */
  readonly cwd: string;
}

/** Reads numbers and texts of a payload; reading beyond its end is an error. */
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
    const end = this.#payload.indexOf(0, this.#at);
    if (end === -1) throw new RangeError('a text has no end');
    const text = this.#payload.toString('utf8', this.#at, end);
    this.#at = end + 1;
    return text;
  }

  texts(): string[] {
    const count = this.u32();
    // Each text has at least one byte, so a count that is too large is detected before anything is allocated.
    if (count > this.#payload.length - this.#at) throw new RangeError('too few texts');
    return Array.from({ length: count }, () => this.text());
  }

  end(): void {
    if (this.#at !== this.#payload.length) throw new RangeError('bytes are left over');
  }
}

/** Reads the payload of `start`. @throws RangeError where it is not one */
export function readStart(payload: Buffer): Start {
  const reader = new PayloadReader(payload);
  const umask = reader.u32() & 0o777;
  const terminals = reader.u8();
  // A terminal's size has 16 bits: struct winsize of ioctl_tty(2).
  const [rows, columns] = [reader.u32() & 0xffff, reader.u32() & 0xffff];
  const mountNamespace = reader.u32();
  const argv = reader.texts();
  const env: Record<string, string> = Object.create(null);
  for (const entry of reader.texts()) {
    const equals = entry.indexOf('=');
    // As with getenv(3), the first of several wins.
    const name = equals === -1 ? entry : entry.slice(0, equals);
    if (equals !== -1) env[name] ??= entry.slice(equals + 1);
  }
  const cwd = reader.text();
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
  };
}

/** A complete frame. */
export function encodeFrame(type: number, payload: Buffer, descriptors = 0): Buffer {
  const frame = Buffer.allocUnsafe(FRAME.header + payload.length);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt8(type, 4);
  frame.writeUInt8(descriptors, 5);
  frame.writeUInt16LE(0, 6);
  payload.copy(frame, FRAME.header);
  return frame;
}

/** A payload of 32-bit numbers. */
export function u32s(...values: readonly number[]): Buffer {
  const payload = Buffer.allocUnsafe(4 * values.length);
  for (const [index, value] of values.entries()) payload.writeUInt32LE(value >>> 0, 4 * index);
  return payload;
}
