import { closeSync, constants, fchmodSync, writeSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { openat2, unlinkat } from '../kernel/at.ts';
import { hasErrno } from '../kernel/libc.ts';

/** Replaces whatever has that name in a directory, a link too, by a plain file of root's. */
export function replaceFileIn(directory: number, name: string, text: string): void {
  try {
    unlinkat(directory, name);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = openat2(directory, name, { flags, mode: 0o600 });
  try {
    fchmodSync(fd, 0o644);
    writeSync(fd, text);
  } finally {
    closeSync(fd);
  }
}

/** Replaces a file of kiln's own as a whole. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  await writeFile(temporary, text, { mode: 0o600, flush: true });
  await rename(temporary, path);
}
