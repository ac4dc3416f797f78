import { close, constants, open } from 'node:fs';
import { promisify } from 'node:util';
import { checked, libc } from './libc.ts';

const syncfsCall = libc.func('int syncfs(int fd)');
const openFile = promisify(open);
const closeFile = promisify(close);

/**
 * Writes everything that waits for the file system of `path` to the disk, without holding up this
 * thread. @throws SyscallError, of syncfs(2).
 */
export async function syncFileSystem(path: string): Promise<void> {
  const fd = await openFile(path, constants.O_RDONLY);
  try {
    await new Promise<void>((resolve, reject) => {
      syncfsCall.async(fd, (error: Error | null, result: number) => {
        if (error) return reject(error);
        try {
          checked('syncfs', result, path);
          resolve();
        } catch (failure) {
          reject(failure);
        }
      });
    });
  } finally {
    await closeFile(fd);
  }
}
