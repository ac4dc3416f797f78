import { QUEUE_SIZE, readQueue } from './layout.ts';
import { type Libsolv, loadLibsolv } from './libsolv.ts';
import type { Id } from './libsolv-types.ts';

/** libsolv's growing array of ids. It owns memory of libsolv's until it is disposed of. */
export class IdQueue implements Disposable {
  /** What libsolv's functions take for a `Queue *`. */
  readonly raw: Buffer = Buffer.alloc(QUEUE_SIZE);
  readonly #calls: Libsolv['queue'] = loadLibsolv().queue;
  #count = 0;

  constructor(ids: Iterable<Id> = []) {
    this.#calls.init(this.raw);
    for (const id of ids) this.push(id);
  }

  /** Appends; only for queues that nobody but us fills. */
  push(id: Id): void {
    this.#calls.insert(this.raw, this.#count++, id);
  }

  toArray(): Id[] {
    return readQueue(this.raw);
  }

  [Symbol.dispose](): void {
    this.#calls.free(this.raw);
  }
}

/** The ids that `fill` puts in a queue. */
export function collectIds(fill: (queue: Buffer) => void): Id[] {
  using queue = new IdQueue();
  fill(queue.raw);
  return queue.toArray();
}
