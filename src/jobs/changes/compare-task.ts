import type { ByteString } from '../../artifacts/byte-string.ts';
import type { SingleTask } from '../../host/confine/task.ts';
import { compareStacks } from './compare.ts';

export interface CompareInput {
  /** How many of the descriptors are the first stack. */
  readonly now: number;
  readonly only: readonly ByteString[];
  readonly mounts: readonly ByteString[];
  readonly most: number;
}

const BATCH = 500;

export const task: SingleTask = {
  async run(input, { fds, emit }) {
    const { now, ...request } = input as CompareInput;
    const stacks = { now: fds.slice(0, now), before: fds.slice(now) };
    const { changes, truncated } = await compareStacks({ ...request, ...stacks });
    for (let at = 0; at < changes.length; at += BATCH) {
      emit({ changes: changes.slice(at, at + BATCH), truncated: false });
    }
    emit({ changes: [], truncated });
  },
};
