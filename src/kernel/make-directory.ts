import { constants, existsSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { hasErrno } from './libc.ts';
import { callerMode } from './own-umask.ts';

/**
 * Makes a directory if there is none, and those above it that are missing; every one that is made
 * is `owner`'s. For paths that a person names: Node's own recursive mkdir never ends, and blocks
 * its whole process, where a directory cannot be made (in /proc).
 * @param path absolute
 * @param owner whoever runs this when missing
 * @throws the system error, ENOTDIR where something else has the name
 */
export async function makeDirectory(
  path: string,
  owner?: { readonly uid: number; readonly gid: number },
): Promise<void> {
  const missing: string[] = [];
  for (let at = path; !existsSync(at); at = dirname(at)) missing.unshift(at);
  for (const directory of missing) {
    try {
      await mkdir(directory, { mode: callerMode(0o755) });
    } catch (error) {
      // Another run makes the same one.
      if (hasErrno(error, 'EEXIST')) continue;
      throw error;
    }
    if (owner === undefined) continue;
    const handle = await openDirectory(directory);
    try {
      await handle.chown(owner.uid, owner.gid);
    } finally {
      await handle.close();
    }
  }
  await (await openDirectory(path)).close();
}

function openDirectory(path: string) {
  return open(path, constants.O_RDONLY | constants.O_DIRECTORY);
}
