import { close, constants, open } from 'node:fs';
import { promisify } from 'node:util';
import { checked, tryCallInThread } from './system-call.ts';

const openFile = promisify(open);
const closeFile = promisify(close);

/**
 * Writes everything that waits for the file system of `path` to the disk, without holding up this
 * thread. @throws SyscallError, of syncfs(2).
 */
export async function syncFileSystem(path: string): Promise<void> {
  const fd = await openFile(path, constants.O_RDONLY);
  try {
    checked('syncfs', await tryCallInThread('syncfs', fd), path);
  } finally {
    await closeFile(fd);
  }
}
