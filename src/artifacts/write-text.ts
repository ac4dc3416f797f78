import { closeSync, constants, fchownSync, fsyncSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openat2 } from '../kernel/at.ts';
import type { Owner } from './destination.ts';
import { unusableResultDirectory } from './result-directory.ts';
import { openStaging } from './staging.ts';

const NEW_FILE = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o644,
};

/**
 * Writes one file into a result directory: whoever reads it sees the old one or the new one, whole.
 * Its content is on the disk when this returns.
 *
 * @param directory the result directory, made if missing
 * @param name without a folder
 * @param owner whose the file is
 * @returns the file's absolute path
 * @throws KilnError E_RESULTDIR
 */
export async function writeText(
  directory: string,
  name: string,
  content: string | Buffer,
  owner: Owner,
): Promise<string> {
  await using staging = await openStaging(directory, owner);
  try {
    const fd = openat2(staging.fd, name, NEW_FILE);
    try {
      writeFileSync(fd, content);
      fchownSync(fd, owner.uid, owner.gid);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw unusableResultDirectory(staging.destination, cause);
  }
  staging.publish();
  return join(staging.destination, name);
}
