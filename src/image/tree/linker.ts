import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { SyscallError } from '../../kernel/libc.ts';
import { type LinkAnswer, type LinkJob, type LinkRequest, linkJobs } from './link-jobs.ts';

/** Requests the thread may have before it; what is more is done by whoever asks. */
const WAITING = 4;

/**
 * Makes hard links on a second processor, where there is one: what a tree is made of takes the kernel
 * as long as finding out what to link takes us.
 */
export class Linker implements AsyncDisposable {
  readonly #thread: Worker | undefined;
  /** In the order in which the thread answers. */
  readonly #waiting: PromiseWithResolvers<LinkAnswer>[] = [];
  #failure: unknown;

  /** Starts the thread, which takes a while: early, and `links` tells whether it is worth it. */
  constructor(links: boolean) {
    if (!links || availableParallelism() < 2) return;
    this.#thread = new Worker(threadEntry());
    this.#thread.on('message', (answer: LinkAnswer) => this.#waiting.shift()?.resolve(answer));
    this.#thread.on('error', (error) => {
      this.#failure = error;
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    });
  }

  /**
   * Does jobs: of each, those names that have too many links already. The folders stay open until then.
   * @throws SyscallError
   */
  async link(jobs: readonly LinkJob[]): Promise<readonly (readonly string[])[]> {
    if (this.#failure !== undefined) throw this.#failure;
    const here = this.#thread === undefined || this.#waiting.length >= WAITING;
    if (here || jobs.length === 0) return linkJobs(jobs);
    const answered = Promise.withResolvers<LinkAnswer>();
    this.#waiting.push(answered);
    this.#thread?.postMessage(jobs satisfies LinkRequest);
    const answer = await answered.promise;
    if ('errno' in answer) throw new SyscallError('linkat', answer.errno);
    return answer.refused;
  }

  /** Ends the thread; afterwards it uses no descriptor any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#waiting.length > 0) await this.#thread?.terminate();
    this.#thread?.postMessage(null);
    // Nobody waits for its end.
    this.#thread?.unref();
  }
}

function threadEntry(): string {
  const here = import.meta.url;
  const path = here.endsWith('.ts') ? '../../link-names.ts' : './link-names.cjs';
  return fileURLToPath(new URL(path, here));
}
