import type { Readable } from 'node:stream';
import { deferred } from '../../../promise.ts';

/** The most bytes that may wait here before the sender must wait. */
const ENOUGH = 1 << 20;

/**
 * The chunks of `source`: first all that arrived before a failure, then the failure. (A stream's own iterator
 * drops what it has buffered when the connection breaks, but a download wants to keep it.)
 *
 * Make it as soon as the stream exists, because earlier events are not seen. Iterate it once, or dispose of it.
 */
export class Arrivals implements Disposable {
  readonly #source: Readable;
  readonly #queue: Buffer[] = [];
  #waiting = 0;
  #ended = false;
  #failure: unknown;
  #wake: () => void = () => {};

  constructor(source: Readable) {
    this.#source = source;
    source.on('data', (chunk: Buffer) => {
      this.#queue.push(chunk);
      this.#waiting += chunk.length;
      if (this.#waiting > ENOUGH) source.pause();
      this.#wake();
    });
    source.on('end', () => {
      this.#ended = true;
      this.#wake();
    });
    source.on('error', (error) => this.#fail(error));
    source.on('close', () => {
      if (!this.#ended) this.#fail(new Error('the connection was closed'));
    });
  }

  /** Gives up: the iteration ends with this reason after the chunks that have arrived. */
  fail(reason: Error): void {
    this.#fail(reason);
    this.#source.destroy();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    try {
      for (;;) {
        const chunk = this.#queue.shift();
        if (chunk !== undefined) {
          this.#waiting -= chunk.length;
          if (this.#waiting <= ENOUGH / 2) this.#source.resume();
          yield chunk;
        } else if (this.#failure !== undefined) {
          throw this.#failure;
        } else if (this.#ended) {
          return;
        } else {
          const { promise, resolve } = deferred<void>();
          this.#wake = resolve;
          await promise;
        }
      }
    } finally {
      this[Symbol.dispose]();
    }
  }

  /** Closes the connection unless everything was read. */
  [Symbol.dispose](): void {
    if (!this.#ended) this.#source.destroy();
  }

  #fail(reason: unknown): void {
    this.#failure ??= reason;
    this.#wake();
  }
}
