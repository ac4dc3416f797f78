/** The thread that {@link Linker} starts (src/image/tree/linker.ts): makes links until it is told to end. */
import { parentPort } from 'node:worker_threads';
import { type LinkAnswer, type LinkRequest, linkJobs } from './image/tree/link-jobs.ts';
import { SyscallError } from './kernel/libc.ts';

parentPort?.on('message', (jobs: LinkRequest | null) => {
  if (jobs === null) parentPort?.close();
  else parentPort?.postMessage(answer(jobs));
});

function answer(jobs: LinkRequest): LinkAnswer {
  try {
    return { refused: linkJobs(jobs) };
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    return { errno: error.errno };
  }
}
