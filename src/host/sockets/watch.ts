/** Watches descriptors on Node's event loop that belong to no stream of Node's. Source: uv_poll_t of libuv. */
import { addon, checked } from '../calls/system-call.ts';

/** UV_READABLE and UV_WRITABLE of uv.h. */
export const READABLE = 1;
export const WRITABLE = 2;

/**
 * Tells when a descriptor can be read or written. Makes it non-blocking. The owner closes it after {@link
 * stop}.
 */
export class Watch {
  readonly #handle: unknown;
  #events = 0;
  #stopped = false;

  /**
   * @param ready is told of the events that have come; after an error of both, since a call says more
   * @throws SyscallError EPERM for what cannot be waited for, such as a regular file
   */
  constructor(fd: number, ready: (events: number) => void) {
    const handle = addon().watch(fd, (events) => {
      if (!this.#stopped) ready(events < 0 ? READABLE | WRITABLE : events);
    });
    if (typeof handle === 'number') checked('watch a descriptor', handle);
    this.#handle = handle;
  }

  /** The events to wait for from now on: {@link READABLE}, {@link WRITABLE}, both, or 0 for none. */
  set events(events: number) {
    if (this.#stopped || events === this.#events) return;
    this.#events = events;
    checked('watch a descriptor', addon().setEvents(this.#handle, events));
  }

  /** Lets go of the descriptor, for good. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    addon().stopWatching(this.#handle);
  }
}
