import { constants, existsSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../kernel/libc.ts';
import type { Owner } from './destination.ts';

/**
 * Makes a result directory if there is none; every directory made on the way is `owner`'s.
 * (Node's own recursive mkdir never ends where a directory cannot be made: in /proc.)
 * @param path absolute
 * @throws the system error
 */
export async function makeResultDirectory(path: string, owner: Owner): Promise<void> {
  const missing: string[] = [];
  for (let at = path; !existsSync(at); at = dirname(at)) missing.unshift(at);
  for (const directory of missing) {
    try {
      await mkdir(directory, { mode: 0o755 });
    } catch (error) {
      // Another run makes the same one.
      if (hasErrno(error, 'EEXIST')) continue;
      throw error;
    }
    const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      await handle.chown(owner.uid, owner.gid);
    } finally {
      await handle.close();
    }
  }
}

/** The error for a result directory that cannot be used: E_RESULTDIR. */
export function unusableResultDirectory(path: string, cause: unknown): KilnError {
  return new KilnError('E_RESULTDIR', `the result directory ${path} cannot be used`, {
    hint: 'name a directory that can be written, with room for the artifacts',
    cause,
  });
}
