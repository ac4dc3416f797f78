/**
 * Moves the output of pipes without reading it: splice(2) hands the pages on, where streams would copy every
 * byte twice. Sources: splice(2), poll(2).
 */
import { fstatSync, readSync, writeSync } from 'node:fs';
import { constants as os } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { closeDescriptor, growPipe } from '../calls/descriptor.ts';
import { hasErrno, SyscallError } from '../calls/libc.ts';
import { checked, tryCall, tryCallInThread } from '../calls/system-call.ts';

const SPLICE_F_MOVE = 1;
const SPLICE_F_NONBLOCK = 2;
const POLLIN = 1;
const POLLOUT = 4;
const POLLFD = 8;

/** Bytes at once, so that signals and the other lanes get their turn. */
const CHUNK = 1 << 20;

/**
 * Output usually continues within microseconds, but a thread of the pool takes 0.1 ms to notice: so long the
 * event loop is blocked, ms.
 */
const LINGER = 1;

export interface Lane {
  readonly from: number;
  readonly to: number;
}

/** A pipe, a file or a device. Not a terminal, and not a socket, on which splice may block. */
export function canRelayTo(fd: number): boolean {
  try {
    const stat = fstatSync(fd);
    return stat.isFIFO() || stat.isFile() || (stat.isCharacterDevice() && !isatty(fd));
  } catch {
    return false;
  }
}

/**
 * A lane ends with its input, or when nobody reads its output; a program that still writes to `from` then gets
 * SIGPIPE. `moved` is called for every chunk.
 * @throws SyscallError when an output fails (ENOSPC, EIO); all lanes are closed then
 */
export async function relay(lanes: readonly Lane[], moved: () => void): Promise<void> {
  const open = lanes.map((lane) => new OpenLane(lane));
  try {
    for (let flowing = false; ; ) {
      const busy = open.filter((lane) => lane.step(moved));
      const waiting = open.filter((lane) => lane.wanted !== undefined);
      if (busy.length > 0) await nextTurn();
      else if (waiting.length > 0) await untilReady(waiting, flowing ? LINGER : 0);
      else return;
      flowing = busy.length > 0;
    }
  } finally {
    for (const lane of open) lane.close();
  }
}

interface Wanted {
  readonly fd: number;
  readonly events: typeof POLLIN | typeof POLLOUT;
}

class OpenLane {
  readonly #from: number;
  readonly #to: number;
  /** splice refuses a file that is opened for appending. */
  #buffer: Buffer | undefined;
  #unwritten: Buffer = Buffer.alloc(0);
  #closed = false;
  wanted: Wanted | undefined;

  constructor({ from, to }: Lane) {
    this.#from = from;
    this.#to = to;
    if (fstatSync(to).isFIFO()) growPipe(to);
  }

  step(moved: () => void): boolean {
    if (this.#closed || this.wanted !== undefined) return false;
    try {
      const bytes = this.#buffer === undefined ? this.#splice() : this.#copy(this.#buffer);
      if (bytes === 0) this.close();
      else moved();
    } catch (error) {
      if (hasErrno(error, 'EINVAL') && this.#buffer === undefined) {
        this.#buffer = Buffer.allocUnsafeSlow(CHUNK);
      } else if (hasErrno(error, 'EAGAIN')) this.#wait();
      else if (hasErrno(error, 'EPIPE')) this.close();
      else if (!hasErrno(error, 'EINTR')) throw error;
    }
    return !this.#closed && this.wanted === undefined;
  }

  #splice(): number {
    const flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
    return checked('splice', tryCall('splice', this.#from, null, this.#to, null, CHUNK, flags));
  }

  #copy(buffer: Buffer): number {
    if (this.#unwritten.length === 0) {
      if (!isReady(this.#from, POLLIN)) throw new SyscallError('poll', os.errno.EAGAIN);
      this.#unwritten = buffer.subarray(0, readSync(this.#from, buffer, 0, CHUNK, null));
    }
    if (this.#unwritten.length === 0) return 0;
    const bytes = writeSync(this.#to, this.#unwritten);
    this.#unwritten = this.#unwritten.subarray(bytes);
    return bytes;
  }

  /** splice does not tell which end is not ready. */
  #wait(): void {
    const input = this.#unwritten.length > 0 || isReady(this.#from, POLLIN);
    this.wanted = input ? { fd: this.#to, events: POLLOUT } : { fd: this.#from, events: POLLIN };
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.wanted = undefined;
    closeDescriptor(this.#from);
  }
}

function pollfds(wanted: readonly Wanted[]): Buffer {
  const fds = Buffer.alloc(POLLFD * wanted.length);
  wanted.forEach(({ fd, events }, index) => {
    fds.writeInt32LE(fd, index * POLLFD);
    fds.writeInt16LE(events, index * POLLFD + 4);
  });
  return fds;
}

export function isReady(fd: number, events: Wanted['events'] = POLLIN): boolean {
  return poll(pollfds([{ fd, events }]), 1, 0) > 0;
}

async function untilReady(lanes: readonly OpenLane[], linger: number): Promise<void> {
  const wanted = lanes.flatMap((lane) => lane.wanted ?? []);
  const fds = pollfds(wanted);
  if (linger === 0 || poll(fds, wanted.length, linger) <= 0) {
    await tryCallInThread('ppoll', fds, wanted.length, null, null, 0);
  }
  lanes.forEach((lane, index) => {
    if (fds.readInt16LE(index * POLLFD + 6) !== 0) lane.wanted = undefined;
  });
}

function poll(fds: Buffer, count: number, milliseconds: number): number {
  const time = BigInt64Array.of(0n, BigInt(milliseconds) * 1_000_000n);
  return tryCall('ppoll', fds, count, time, null, 0);
}
