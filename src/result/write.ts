import { closeSync, constants, fchownSync, fsyncSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Owner } from '../artifacts/destination.ts';
import { unusableResultDirectory } from '../artifacts/result-directory.ts';
import { openStaging } from '../artifacts/staging.ts';
import { openat2 } from '../kernel/at.ts';
import type { Result } from './schema.ts';

/** The file's name in a result directory. */
const RESULT_FILE = 'result.json';

const NEW_FILE = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o644,
};

/**
 * Writes result.json: whoever reads it sees the old one or the new one, whole. Its content is on
 * the disk when this returns.
 *
 * @param directory the result directory, made if missing
 * @param owner whose the file is
 * @returns the file's absolute path
 * @throws KilnError E_RESULTDIR
 */
export async function writeResult(
  directory: string,
  result: Result,
  owner: Owner,
): Promise<string> {
  const text = `${JSON.stringify(result, undefined, 2)}\n`;
  await using staging = await openStaging(directory, owner);
  try {
    const fd = openat2(staging.fd, RESULT_FILE, NEW_FILE);
    try {
      writeFileSync(fd, text);
      fchownSync(fd, owner.uid, owner.gid);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    throw unusableResultDirectory(staging.destination, cause);
  }
  staging.publish();
  return join(staging.destination, RESULT_FILE);
}
