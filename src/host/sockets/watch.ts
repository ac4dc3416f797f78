import { constants as os } from 'node:os';
import { closeDescriptor } from '../calls/descriptor.ts';
import { SyscallError } from '../calls/libc.ts';
import { addon, checked, tryCall } from '../calls/system-call.ts';

/** UV_READABLE and UV_WRITABLE of uv.h. */
export const READABLE = 1;
export const WRITABLE = 2;
/** UV_DISCONNECT: the other end is gone. */
export const DISCONNECTED = 4;

/**
 * Tells when a descriptor can be read or written. Makes it non-blocking; its owner closes it after {@link
 * stop}.
 */
export class Watch {
  readonly #handle: unknown;
  #events = 0;
  #stopped = false;

  constructor(fd: number, ready: (events: number) => void) {
    const handle = addon().watch(fd, (events) => {
      if (this.#stopped) return;
      // libuv has stopped it, though there may be more to read before the error (uv__poll_io() in its poll.c).
      if (events < 0) checked('watch a descriptor', addon().setEvents(handle, this.#events));
      ready(events < 0 ? READABLE | WRITABLE | DISCONNECTED : events);
    });
    if (typeof handle === 'number') checked('watch a descriptor', handle);
    this.#handle = handle;
  }

  set events(events: number) {
    if (this.#stopped || events === this.#events) return;
    this.#events = events;
    checked('watch a descriptor', addon().setEvents(this.#handle, events));
  }

  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    addon().stopWatching(this.#handle);
  }
}

export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
const F_DUPFD_CLOEXEC = 1030;

/** A peer with more unread bytes does not read at all. */
const UNSENT_MAX = 64 << 20;

interface Unsent {
  bytes: Buffer;
  fds: readonly number[];
}

/** Keeps the order. What the socket has no room for is queued; this thread never blocks. */
export class MessageSender {
  readonly #fd: number;
  readonly #failed: (error: Error) => void;
  #unsent: Unsent[] = [];
  #unsentBytes = 0;
  /** A copy of the descriptor: a stream of Node's may watch the original on the same event loop. */
  #waiting: { readonly watch: Watch; readonly fd: number } | undefined;
  #stopped = false;

  constructor(fd: number, failed: (error: Error) => void) {
    this.#fd = fd;
    this.#failed = failed;
  }

  /**
   * `bytes` are not empty; `fds` are attached to the first one, and the caller closes its own copies. @throws
   * SyscallError if the peer is gone, or too much is queued
   */
  send(bytes: Buffer, fds: readonly number[]): void {
    if (this.#stopped) throw new SyscallError('sendmsg', os.errno.EPIPE);
    const done = this.#unsent.length === 0 ? this.#try(bytes, fds) : 0;
    if (done === bytes.length) return;
    const rest = bytes.subarray(done);
    if (this.#unsentBytes + rest.length > UNSENT_MAX) {
      throw new SyscallError('sendmsg', os.errno.ENOBUFS);
    }
    this.#unsentBytes += rest.length;
    this.#unsent.push({ bytes: rest, fds: done > 0 ? [] : fds.map(duplicate) });
    this.#wait();
  }

  stop(): void {
    this.#stopped = true;
    for (const { fds } of this.#unsent.splice(0)) fds.forEach(closeDescriptor);
    this.#unsentBytes = 0;
    this.#rest();
  }

  #try(bytes: Buffer, fds: readonly number[]): number {
    for (let done = 0; ; ) {
      const rest = done === 0 ? bytes : bytes.subarray(done);
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      const result = addon().sendMessage(this.#fd, rest, done === 0 ? fds : [], flags);
      if (result === -os.errno.EAGAIN) return done;
      if (result === -os.errno.EINTR) continue;
      done += checked('sendmsg', result);
      if (done === bytes.length) return done;
    }
  }

  #flush(): void {
    try {
      for (let next = this.#unsent[0]; next !== undefined; next = this.#unsent[0]) {
        const done = this.#try(next.bytes, next.fds);
        this.#unsentBytes -= done;
        if (done > 0) {
          next.fds.forEach(closeDescriptor);
          next.fds = [];
        }
        next.bytes = next.bytes.subarray(done);
        if (next.bytes.length > 0) return;
        this.#unsent.shift();
      }
      this.#rest();
    } catch (error) {
      this.stop();
      this.#failed(error as Error);
    }
  }

  #wait(): void {
    if (this.#waiting !== undefined) return;
    const fd = duplicate(this.#fd);
    const watch = new Watch(fd, () => this.#flush());
    watch.events = WRITABLE;
    this.#waiting = { watch, fd };
  }

  #rest(): void {
    if (this.#waiting === undefined) return;
    this.#waiting.watch.stop();
    closeDescriptor(this.#waiting.fd);
    this.#waiting = undefined;
  }
}

export function duplicate(fd: number): number {
  return checked('fcntl', tryCall('fcntl', fd, F_DUPFD_CLOEXEC, 0));
}
