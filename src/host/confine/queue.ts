/**
 * A queue of work for several confined children. Each has a socket of its own, and gets its next piece of work
 * when it has answered for the last one.
 *
 * A child that was taken over by a file can answer wrongly for all its later work, but not for work of another
 * child. Files that must not affect each other need a queue each.
 */
import { KilnError } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { closeDescriptor } from '../calls/descriptor.ts';
import { hasErrno } from '../calls/libc.ts';
import { span } from '../trace/trace.ts';
import { aboutFile, rebuildError } from './frame.ts';
import { takeQueueChild } from './queue-child.ts';
import { ConfinedChild, type ConfinedStart, checked } from './run.ts';
import { type HandedWork, sendWork } from './task.ts';

export interface QueueOptions<Work, Output> extends Omit<ConfinedStart, 'fds'> {
  /** How many at most. */
  readonly children: number;
  /** The next piece of work is taken when a child has room for it. */
  readonly works: AsyncIterable<Work>;
  /** How many pieces of work a child has waiting beside the one it works on. */
  readonly ahead: number;
  /** The name for errors of the child about this work. */
  readonly name: (work: Work) => string;
  /** Opens the files of the work. The queue closes them. @throws KilnError that is the result of this work */
  readonly open: (work: Work) => HandedWork;
  /** Turns the child's answer, which is untrusted, into an Output or throws. */
  readonly take: (value: unknown, work: Work) => Output;
  /** The output for work that failed, in the child or before. */
  readonly fail: (error: KilnError, work: Work) => Output;
  /** Called with each message of a working child; untrusted. */
  readonly onMessage?: ((value: unknown, work: Work) => void) | undefined;
}

/**
 * Has confined children do a queue of work, and yields what comes of each in no particular order. All
 * children are dead when the iteration ends, whichever way it ends. A limit on time (`wallMs`) is for one piece of work.
 * @throws what `works` throws; what {@link runConfined} throws, with the name of the work; the signal's
 *   reason
 */
export async function* runQueue<Work, Output>(
  options: QueueOptions<Work, Output>,
): AsyncGenerator<Output, void, undefined> {
  using _ = span(`confined: ${options.task}`);
  const works = options.works[Symbol.asyncIterator]();
  const serve = async function* (signal: AbortSignal) {
    await using worker = new Worker({ ...options, signal }, works);
    yield* worker.results();
  };
  const start = (signal: AbortSignal) =>
    Array.from({ length: options.children }, () => serve(signal));
  yield* mergeIterations(start, options.signal);
}

class Worker<Work, Output> implements AsyncDisposable {
  readonly #options: QueueOptions<Work, Output>;
  readonly #works: AsyncIterator<Work>;
  readonly #child: ConfinedChild;
  readonly #socket: number;
  /** The work that the child has; the first piece is the one that it works on. */
  readonly #sent: Work[] = [];
  readonly #unopened: Output[] = [];
  #isOver = false;
  #onRoom = deferred<void>();

  constructor(options: QueueOptions<Work, Output>, works: AsyncIterator<Work>) {
    this.#options = options;
    this.#works = works;
    const { process, socket } = takeQueueChild(options);
    this.#socket = socket;
    this.#child = new ConfinedChild(options, process, 1);
  }

  async *results(): AsyncGenerator<Output, void, undefined> {
    this.#feed().catch((error) => this.#child.fail(error));
    try {
      for await (const reply of this.#child.replies()) {
        const [work] = this.#sent;
        if (work === undefined) {
          throw new KilnError(
            'E_CONFINE_PROTOCOL',
            'a confined process answered a question that kiln did not ask',
          );
        }
        this.#child.again();
        if (reply.type === 'answered') yield this.#answered(work, reply);
        else this.#check(() => this.#options.onMessage?.(reply.value, work));
      }
      if (!this.#isOver || this.#sent.length > 0) {
        throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child ended before its work did');
      }
    } catch (error) {
      throw this.#named(error);
    }
    yield* this.#unopened;
  }

  /** Sends the child as much work as it has room for, until there is no more. */
  async #feed(): Promise<void> {
    for (;;) {
      while (this.#sent.length > this.#options.ahead) await this.#onRoom.promise;
      const { done, value } = await this.#works.next();
      // The child is gone, and its descriptor number may be reused.
      if (this.#isOver) return;
      if (done === true) return this.#end();
      this.#send(value);
    }
  }

  #send(work: Work): void {
    const { open, fail } = this.#options;
    let opened: HandedWork;
    try {
      opened = open(work);
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      this.#unopened.push(fail(error, work));
      return;
    }
    this.#sent.push(work);
    try {
      sendWork(this.#socket, opened);
    } catch (error) {
      // The child died; its replies report that.
      if (!hasErrno(error, 'EPIPE', 'ECONNRESET')) throw error;
    } finally {
      for (const fd of opened.fds) closeDescriptor(fd);
    }
  }

  #answered(work: Work, reply: { readonly value?: unknown; readonly error?: unknown }): Output {
    const { take, fail, name } = this.#options;
    const output =
      reply.error === undefined
        ? this.#check(() => take(reply.value, work))
        : fail(aboutFile(name(work), rebuildError(reply.error)), work);
    this.#sent.shift();
    this.#onRoom.resolve();
    this.#onRoom = deferred();
    return output;
  }

  #check<Result>(take: () => Result): Result {
    return checked(this.#options.task, take);
  }

  /** An error of the child, with the name of the work that it had. */
  #named(error: unknown): unknown {
    const [work] = this.#sent;
    if (work === undefined || !(error instanceof KilnError)) return error;
    if (!error.code.startsWith('E_CONFINE_')) return error;
    return aboutFile(this.#options.name(work), error);
  }

  /** Tells the child that no more work will come. */
  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    closeDescriptor(this.#socket);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end();
    await this.#child[Symbol.asyncDispose]();
  }
}

type Source<Value> = AsyncGenerator<Value, void, undefined>;

/**
 * Merges several iterations into one, in the order in which values arrive. When one fails, or the caller stops
 * early, the others are aborted and have ended before this ends.
 * @param start Makes the iterations; they must heed the signal it is given.
 */
async function* mergeIterations<Value>(
  start: (signal: AbortSignal) => readonly Source<Value>[],
  outer?: AbortSignal,
): Source<Value> {
  const own = new AbortController();
  const signal = outer === undefined ? own.signal : AbortSignal.any([outer, own.signal]);
  const sources = start(signal);
  const waiting = new Map<number, Promise<{ from: number; step: IteratorResult<Value, void> }>>();
  const ask = (from: number) => {
    // A source that fails while the caller is busy is reported by the next call.
    const next = awaitedLater(sources[from]!.next().then((step) => ({ from, step })));
    waiting.set(from, next);
  };
  for (const from of sources.keys()) ask(from);
  try {
    while (waiting.size > 0) {
      const { from, step } = await Promise.race(waiting.values());
      waiting.delete(from);
      if (step.done === true) continue;
      ask(from);
      yield step.value;
    }
  } finally {
    own.abort();
    await Promise.allSettled(sources.map((source) => source.return()));
  }
}
