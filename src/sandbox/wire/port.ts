/**
 * The port between the relay on the host (src/relay) and stage 0 in a machine (src/guest/machine): the one table of
 * its frames. scripts/write/wire.ts writes dist/wire/port-wire.h from it, for both ends.
 *
 * A frame is { u32 length, u16 type, u16 stream, payload[length] }, little-endian. Its payload begins with the words
 * of its row; what follows has at most `most` bytes. Each end refuses a frame that is not as its row says, and the
 * connection ends. Stream 0 is the connection between kiln and the init; the host numbers streams below
 * {@link PORT}.guest, the guest from there on.
 */

export const PORT = {
  name: 'kiln.0',
  version: 1,
  /** What a pipe has unless it was enlarged: stage 0 passes that on in one go. */
  payload: 64 * 1024,
  /** Bytes of a stream that may be on the way: whoever reads them gives credit for more. */
  window: 256 * 1024,
  /** Streams that each end may open at once. */
  streams: 1024,
  guest: 0x8000,
  /** Folder of the shares in the guest; the tag of its virtiofs. */
  tag: 'kiln',
  /** Ids of the sandbox as the guest numbers them: the same in all machines, since one may be restored of another. */
  ids: { base: 0x7000_0000, count: 65_536 },
} as const;

type Word = 'u32' | 'u64';

export interface Frame {
  readonly type: number;
  readonly from: 'host' | 'guest' | 'both';
  /** Whether it is about a stream: 0 counts where it is `any`. */
  readonly stream: 'none' | 'any';
  readonly words: Readonly<Record<string, Word>>;
  /** The most bytes after the words; none where it is missing. */
  readonly most?: number;
}

/** What a descriptor is at the end that gets it. */
export const DESCRIPTORS = {
  /** A pipe that it reads, and one that it writes. */
  input: 1,
  output: 2,
  /** A unix socket, through which the init passes descriptors. */
  carrier: 3,
  /** A mount: `value` is its share, `flags` are those of {@link SHARE}. */
  share: 4,
  /** The master of a terminal. */
  terminal: 5,
  /** A connected socket, and one whose connections come as `open`. */
  socket: 6,
  listener: 7,
  datagrams: 8,
} as const;

export const SHARE = { directory: 1, readonly: 2 } as const;

export const FRAMES = {
  /** The first frame: stage 0 runs. And the answer to `wake`. */
  hello: { type: 1, from: 'guest', stream: 'none', words: { version: 'u32' } },
  /** The answer: the hard limit of open files of the sandbox, whose init starts. */
  begin: { type: 2, from: 'host', stream: 'none', words: { files: 'u64' } },
  /** The init listens. */
  ready: { type: 3, from: 'guest', stream: 'none', words: {} },
  /** The init has ended, and the machine does. */
  gone: { type: 4, from: 'guest', stream: 'none', words: { status: 'u32' } },
  /** kiln has connected to the init. */
  connect: { type: 5, from: 'host', stream: 'none', words: {} },
  /** That connection is over. Both ends say so, once for each connection. */
  disconnect: { type: 6, from: 'both', stream: 'none', words: {} },
  /** A descriptor of the message that comes next. `command`: whose stdio it is, or 0. */
  descriptor: {
    type: 7,
    from: 'host',
    stream: 'any',
    words: { kind: 'u32', command: 'u32', value: 'u32', flags: 'u32' },
  },
  /**
   * Bytes of the connection. With a `command` they are a whole message, which waits until all that came before it on
   * that command's streams has been written.
   */
  message: {
    type: 8,
    from: 'both',
    stream: 'none',
    words: { command: 'u32' },
    most: PORT.payload - 4,
  },
  data: { type: 9, from: 'both', stream: 'any', words: {}, most: PORT.payload },
  /** So many bytes more may come. */
  credit: { type: 10, from: 'both', stream: 'any', words: { bytes: 'u32' } },
  /** Whoever wrote has closed it. */
  end: { type: 11, from: 'both', stream: 'any', words: {} },
  /** Whoever read has closed it. */
  reset: { type: 12, from: 'both', stream: 'any', words: {} },
  /** Nothing more comes from this end: once both have said so, the number is free. */
  close: { type: 13, from: 'both', stream: 'any', words: {} },
  /** The init has passed a descriptor through a carrier: it is this stream. */
  passed: {
    type: 14,
    from: 'guest',
    stream: 'any',
    words: { carrier: 'u32', kind: 'u32', value: 'u32' },
  },
  /** A listener of the guest's has accepted a connection: it is this stream. */
  open: { type: 15, from: 'guest', stream: 'any', words: { listener: 'u32' } },
  /** The address is the other end's, in network order. */
  datagram: {
    type: 16,
    from: 'both',
    stream: 'any',
    words: { address: 'u32', port: 'u32' },
    most: 2048,
  },
  /** A request of kiln's to stage 0, as in table.ts, with its header; answered with a message. */
  order: { type: 17, from: 'host', stream: 'none', words: {}, most: 4096 },
  /** To a machine that is restored: whether its stage 0 runs again. */
  wake: { type: 19, from: 'host', stream: 'none', words: {} },
  /**
   * The answer of both to `hello`, before all others: the time, nanoseconds since the epoch, and
   * a seed of random numbers, which no two have.
   */
  renew: {
    type: 18,
    from: 'host',
    stream: 'none',
    words: { time: 'u64', seed0: 'u64', seed1: 'u64', seed2: 'u64', seed3: 'u64' },
  },
} as const satisfies Readonly<Record<string, Frame>>;
