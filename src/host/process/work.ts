/** What a long call is at. Ambient: the code that knows lies far below the command that tells it. */
import { AsyncLocalStorage } from 'node:async_hooks';

interface WorkListener {
  begins(stage: string, total?: number): void;
  /** How much of the stage is done. */
  hasDone(count: number): void;
}

const listeners = new AsyncLocalStorage<WorkListener>();

/** What `task` calls to {@link beginStage} and {@link noteDone} reaches the listener. */
export async function listeningTo<Result>(
  listener: WorkListener,
  task: () => Promise<Result> | Result,
): Promise<Result> {
  return await listeners.run(listener, task);
}

/** @param stage what is being done, to be followed by a count: "copying files" */
export function beginStage(stage: string, total?: number): void {
  listeners.getStore()?.begins(stage, total);
}

export function noteDone(count: number): void {
  listeners.getStore()?.hasDone(count);
}

/** What the listener has heard last, in words. */
export class WorkText implements WorkListener {
  #stage = '';
  #total: number | undefined;
  #done = 0;

  begins(stage: string, total?: number): void {
    this.#stage = stage;
    this.#total = total;
    this.#done = 0;
  }

  hasDone(count: number): void {
    this.#done = count;
  }

  /** Undefined before the first stage. */
  get text(): string | undefined {
    if (this.#stage === '') return undefined;
    const of = this.#total === undefined ? '' : ` of ${this.#total}`;
    return this.#done === 0 ? this.#stage : `${this.#stage}: ${this.#done}${of}`;
  }
}
