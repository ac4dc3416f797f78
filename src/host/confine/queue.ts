/**
 * Work for several confined children, each with a socket of its own.
 * A child that was taken over by a file can answer wrongly for all its later work, but not for work of another
 * child. Files that must not affect each other need a queue each.
 */

import type { ChildProcess } from 'node:child_process';
import { isKilnCode, KilnError } from '../../errors.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import { closeDescriptor, closing } from '../calls/descriptor.ts';
import { unlessErrno } from '../calls/libc.ts';
import { unixPacketPair } from '../sockets/unix-socket.ts';
import { span } from '../trace/trace.ts';
import { fileError, rebuildError } from './frame.ts';
import { launchConfined } from './launch.ts';
import {
  type ChildReply,
  ConfinedChild,
  type ConfinedStart,
  checked,
  FAULTS_OF_A_FILE,
  unaskedError,
} from './run.ts';
import { defaultLimits, type HandedWork, sendWork } from './task.ts';

export interface QueueOptions<Work, Output> extends ConfinedStart {
  readonly children: number;
  readonly works: AsyncIterable<Work>;
  /** How many pieces may wait at each child, beside the one that it works on. */
  readonly ahead: number;
  readonly name: (work: Work) => string;
  /** The queue closes the files. @throws KilnError that is the result of this work */
  readonly open: (work: Work) => HandedWork;
  readonly take: (value: unknown, work: Work) => Output;
  readonly fail: (error: KilnError, work: Work) => Output;
  /** The parts of a piece, which are tried each by itself where a child dies of the piece. */
  readonly split?: (work: Work) => readonly Work[];
  readonly onMessage?: ((value: unknown, work: Work) => void) | undefined;
}

/**
 * Yields what comes of each piece, in no particular order. A piece that its child dies of is a failure of that piece
 * alone (`fail`), and another child goes on. All children are dead when the iteration ends in any way. `wallMs` is from
 * one message of a child's to the next, and also for all deaths of a child together.
 * @throws what `works` throws; what {@link runConfined} throws where that is no piece's alone; the signal's reason
 */
export async function* runQueue<Work, Output>(
  options: QueueOptions<Work, Output>,
): AsyncGenerator<Output, void, undefined> {
  using _ = span(`confined: ${options.task}`);
  const works = options.works[Symbol.asyncIterator]();
  const serve = async function* (signal: AbortSignal) {
    await using worker = new Worker(options, works, signal);
    yield* worker.results();
  };
  const start = (signal: AbortSignal) =>
    Array.from({ length: options.children }, () => serve(signal));
  yield* mergeIterations(start, options.signal);
}

class Worker<Work, Output> implements AsyncDisposable {
  readonly #options: QueueOptions<Work, Output>;
  readonly #works: AsyncIterator<Work>;
  readonly #signal: AbortSignal;
  readonly #stop = new AbortController();
  #child: ConfinedChild;
  /** Undefined once all work was sent. */
  #socket: number | undefined;
  readonly #sent: Work[] = [];
  readonly #unopened: Output[] = [];
  #isOver = false;
  #onRoom = deferred<void>();
  /** Whatever ends the child now, it is the first piece: it has begun that, or was given no other before. */
  #isAtFirst = true;
  /** When the child said something last, or got something to do. */
  #since = 0;
  /** How long pieces took that ended their child, milliseconds. */
  #lost = 0;

  constructor(
    options: QueueOptions<Work, Output>,
    works: AsyncIterator<Work>,
    signal: AbortSignal,
  ) {
    this.#options = options;
    this.#works = works;
    this.#signal = AbortSignal.any([signal, this.#stop.signal]);
    this.#child = this.#start();
  }

  #start(): ConfinedChild {
    const { process, socket } = start(this.#options);
    this.#socket = socket;
    this.#isAtFirst = true;
    return new ConfinedChild({ ...this.#options, signal: this.#signal }, process, 1);
  }

  async *results(): AsyncGenerator<Output, void, undefined> {
    this.#feed().catch((error) => this.#stop.abort(error));
    for (;;) {
      try {
        for await (const reply of this.#child.replies()) yield* this.#heard(reply);
        if (!this.#isDone) {
          throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child ended before its work did');
        }
      } catch (error) {
        this.#signal.throwIfAborted();
        yield* this.#ended(error);
      }
      if (this.#isDone) break;
      await this.#replace();
    }
    yield* this.#unopened;
  }

  get #isDone(): boolean {
    return this.#isOver && this.#sent.length === 0;
  }

  *#heard(reply: ChildReply): Generator<Output, void, undefined> {
    const { onMessage } = this.#options;
    const [work] = this.#sent;
    if (work === undefined) throw unaskedError();
    this.#child.again();
    this.#since = performance.now();
    if (reply.type === 'answered') yield this.#answered(work, reply);
    else {
      this.#isAtFirst = true;
      this.#check(() => onMessage?.(reply.value, work));
    }
  }

  /**
   * The first piece is at fault. Where it may be one before, it is tried again.
   * @throws the error if it is of no piece, or costs too much time
   */
  *#ended(error: unknown): Generator<Output, void, undefined> {
    const { name, split, fail, limits } = this.#options;
    const [work] = this.#sent;
    if (!isKilnCode(error, ...FAULTS_OF_A_FILE) || !this.#child.hasBegun) throw error;
    if (work === undefined) {
      if (this.#isAtFirst || error.code !== 'E_CONFINE_DIED') throw error;
      return;
    }
    this.#lost += performance.now() - this.#since;
    const isLate = this.#lost > (limits?.wallMs ?? defaultLimits.wallMs);
    if (isLate || error.code === 'E_CONFINE_TIMEOUT') throw fileError(name(work), error);
    if (!this.#isAtFirst) return;
    const parts = split?.(work) ?? [];
    if (parts.length > 1) this.#sent.splice(0, 1, ...parts);
    else yield this.#done(fail(fileError(name(work), error), work));
  }

  /** What was sent to the old child is lost with it, and sent once more. */
  async #replace(): Promise<void> {
    await this.#child[Symbol.asyncDispose]();
    this.#close();
    this.#child = this.#start();
    for (const work of this.#sent.splice(0)) this.#send(work);
    if (this.#isOver) this.#close();
    this.#tellOfRoom();
  }

  async #feed(): Promise<void> {
    for (;;) {
      while (this.#sent.length > this.#options.ahead) await this.#onRoom.promise;
      const { done, value } = await this.#works.next();
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
    if (this.#sent.push(work) === 1) this.#since = performance.now();
    try {
      unlessErrno(['EPIPE', 'ECONNRESET'], () => sendWork(this.#socket!, opened));
    } finally {
      for (const fd of opened.fds) closeDescriptor(fd);
    }
  }

  #answered(work: Work, reply: { readonly value?: unknown; readonly error?: unknown }): Output {
    const { take, fail, name } = this.#options;
    const output =
      reply.error === undefined
        ? this.#check(() => take(reply.value, work))
        : fail(fileError(name(work), rebuildError(reply.error)), work);
    return this.#done(output);
  }

  #done(output: Output): Output {
    this.#sent.shift();
    this.#isAtFirst = false;
    this.#tellOfRoom();
    return output;
  }

  #tellOfRoom(): void {
    this.#onRoom.resolve();
    this.#onRoom = deferred();
  }

  #check<Result>(take: () => Result): Result {
    return checked(this.#options.task, take);
  }

  #end(): void {
    this.#isOver = true;
    this.#close();
  }

  #close(): void {
    if (this.#socket !== undefined) closeDescriptor(this.#socket);
    this.#socket = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end();
    await this.#child[Symbol.asyncDispose]();
  }
}

type Source<Value> = AsyncGenerator<Value, void, undefined>;

/**
 * Merges iterations, in the order in which values arrive. When one fails, or the caller stops early, the others
 * are aborted by the signal and have ended before this ends.
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

interface QueueChild {
  readonly process: ChildProcess;
  readonly socket: number;
}

function start(options: ConfinedStart): QueueChild {
  const [socket, theirs] = unixPacketPair();
  using _theirs = closing(theirs);
  try {
    return { process: launchConfined({ ...options, fds: [theirs] }), socket };
  } catch (error) {
    closeDescriptor(socket);
    throw error;
  }
}
