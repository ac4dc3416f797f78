import { constants } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import type { Owner } from './destination.ts';

/**
 * Makes a result directory if there is none; every directory made on the way is `owner`'s.
 * @param path absolute
 * @throws the system error
 */
export async function makeResultDirectory(path: string, owner: Owner): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o755 });
  if (first === undefined) return;
  for (let made = path; made.length >= first.length; made = resolve(made, '..')) {
    const handle = await open(made, constants.O_RDONLY | constants.O_DIRECTORY);
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
