/** The thread of a FolderFinisher (src/image/tree/folder-finisher.ts): does jobs until it is told to end. */
import { parentPort } from 'node:worker_threads';
import type { FinisherAnswer } from './image/tree/folder-finisher.ts';
import { type FolderJob, finishFolders } from './image/tree/folder-jobs.ts';
import { SyscallError } from './kernel/libc.ts';

parentPort?.on('message', (jobs: readonly FolderJob[] | null) => {
  if (jobs === null) parentPort?.close();
  else parentPort?.postMessage(answer(jobs));
});

function answer(jobs: readonly FolderJob[]): FinisherAnswer {
  try {
    return { refused: finishFolders(jobs) };
  } catch (error) {
    // An error's class does not cross to another thread.
    if (error instanceof SyscallError) return { call: error.call, errno: error.errno };
    const { syscall, errno } = error as NodeJS.ErrnoException;
    if (syscall === undefined || errno === undefined) throw error;
    return { call: syscall, errno: -errno };
  }
}
