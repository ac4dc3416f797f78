import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { SyscallError } from '../../kernel/libc.ts';
import { deferred } from '../../promise.ts';
import { type FolderJob, finishFolders, type RefusedLink } from './folder-jobs.ts';

/** Requests the thread may have before it; what is more is done by whoever asks. */
const WAITING = 4;

/** What the thread says: what {@link finishFolders} returns, or which call has failed. */
export type FinisherAnswer =
  | { readonly refused: readonly RefusedLink[] }
  | { readonly call: string; readonly errno: number };

/**
 * Finishes folders on a second processor, where there is one: the links of a tree take the kernel as long
 * as it takes us to find out what to link, and to make the folders.
 */
export class FolderFinisher implements AsyncDisposable {
  #thread: Worker | undefined;
  /** In the order in which the thread answers. */
  readonly #waiting: PromiseWithResolvers<FinisherAnswer>[] = [];

  /** Starts the thread, which takes a while: to be made early, and only for many files (`worthwhile`). */
  constructor(worthwhile: boolean) {
    if (!worthwhile || availableParallelism() < 2) return;
    this.#thread = new Worker(threadEntry());
    this.#thread.on('message', (answer: FinisherAnswer) => this.#waiting.shift()?.resolve(answer));
    this.#thread.on('error', (error) => {
      // One that cannot start is not needed; of one that has work nobody knows how far it came.
      this.#thread = undefined;
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    });
  }

  /** Does jobs; returns the links that are still to be made otherwise. @throws SyscallError */
  async finish(jobs: readonly FolderJob[]): Promise<readonly RefusedLink[]> {
    if (this.#thread === undefined || this.#waiting.length >= WAITING) return finishFolders(jobs);
    const answered = deferred<FinisherAnswer>();
    this.#waiting.push(answered);
    this.#thread.postMessage(jobs);
    const answer = await answered.promise;
    if ('errno' in answer) throw new SyscallError(answer.call, answer.errno);
    return answer.refused;
  }

  /** Ends the thread, which uses no descriptor any more then; what comes afterwards is done here. */
  async [Symbol.asyncDispose](): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    if (this.#waiting.length > 0) await thread?.terminate();
    thread?.postMessage(null);
    // Nobody waits for its end.
    thread?.unref();
  }
}

function threadEntry(): string {
  const here = import.meta.url;
  const path = here.endsWith('.ts') ? '../../finish-folders.ts' : './finish-folders.cjs';
  return fileURLToPath(new URL(path, here));
}
