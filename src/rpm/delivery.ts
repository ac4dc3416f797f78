/** The way of packages to the children that unpack them. */

import { closeSync } from 'node:fs';
import { Handout } from '../confine/handout.ts';
import { KilnError } from '../errors.ts';
import { deferred } from '../promise.ts';
import { openFile } from './open-files.ts';
import type { UnpackJob, UnpackOptions, UnpackResult } from './unpack.ts';

/** Packages on their way to the children: each of them has the next one as soon as it is free. */
export class Delivery implements Disposable {
  readonly jobs: readonly UnpackJob[];
  readonly handout = new Handout();
  readonly #ready: UnpackOptions['ready'];
  readonly #mostAway: number;
  readonly #away = new Set<number>();
  #isOver = false;
  #onAnswer = deferred<void>();

  constructor(jobs: readonly UnpackJob[], ready: UnpackOptions['ready'], mostAway: number) {
    this.jobs = jobs;
    this.#ready = ready;
    this.#mostAway = mostAway;
  }

  /** Hands over all packages; those that cannot be opened are results. */
  async *deliver(signal: AbortSignal): AsyncGenerator<UnpackResult, void, undefined> {
    signal.throwIfAborted();
    const aborted = deferred<never>();
    aborted.promise.catch(() => undefined);
    const abort = () => aborted.reject(signal.reason);
    signal.addEventListener('abort', abort);
    try {
      for (const [index, job] of this.jobs.entries()) {
        await Promise.race([this.#room(), aborted.promise]);
        await Promise.race([this.#ready?.(job), aborted.promise]);
        signal.throwIfAborted();
        const error = this.#hand(index, job);
        if (error !== undefined) yield { job, error };
      }
    } finally {
      signal.removeEventListener('abort', abort);
      this.#isOver = true;
      this.handout.end();
    }
  }

  /** A child has ended. @throws KilnError E_CONFINE_PROTOCOL if it could not know that no more would come */
  childEnded(): void {
    if (this.#isOver) return;
    throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child ended before its work did');
  }

  async #room(): Promise<void> {
    while (this.#away.size >= this.#mostAway) await this.#onAnswer.promise;
  }

  #hand(index: number, job: UnpackJob): KilnError | undefined {
    let fd: number;
    try {
      fd = openFile(job.file).fd;
    } catch (error) {
      if (error instanceof KilnError) return error;
      throw error;
    }
    try {
      this.handout.hand([{ index, fd }]);
      this.#away.add(index);
      return undefined;
    } finally {
      closeSync(fd);
    }
  }

  /** The job that a child speaks of. @throws TypeError if no child has it */
  jobOf(index: unknown): UnpackJob {
    const job = this.#away.has(index as number) ? this.jobs[index as number] : undefined;
    if (job === undefined) throw new TypeError(`there is no job ${index}`);
    return job;
  }

  /** A child is done with it. */
  answered(index: unknown): void {
    this.#away.delete(index as number);
    this.#onAnswer.resolve();
    this.#onAnswer = deferred();
  }

  /** @throws KilnError E_CONFINE_PROTOCOL when a package has not been answered for. */
  assertDone(): void {
    const [index] = this.#away;
    if (index === undefined) return;
    const { file } = this.jobs[index]!;
    throw new KilnError('E_CONFINE_PROTOCOL', `${file}: the confined child said nothing`);
  }

  [Symbol.dispose](): void {
    this.handout[Symbol.dispose]();
  }
}
