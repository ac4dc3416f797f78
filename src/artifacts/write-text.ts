import { closeSync, constants, fchownSync, fsyncSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openat2 } from '../kernel/at.ts';
import { callerMode } from '../kernel/own-umask.ts';
import type { Owner } from './destination.ts';
import { unusableResultDirectory } from './result-directory.ts';
import { openStaging } from './staging.ts';

const FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** A file for a result directory. */
export interface TextFile {
  /** Without a folder. */
  readonly name: string;
  readonly content: string | Buffer;
}

/**
 * Writes one file into a result directory: whoever reads it sees the old one or the new one, whole.
 * Its content is on the disk when this returns.
 *
 * @param directory the result directory, made if missing
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
  const destination = await write(directory, [{ name, content }], owner, true);
  return join(destination, name);
}

/**
 * Like {@link writeText} for several files, which appear one after another; they reach the disk
 * when the kernel likes.
 */
export async function writeTexts(
  directory: string,
  files: readonly TextFile[],
  owner: Owner,
): Promise<void> {
  await write(directory, files, owner, false);
}

async function write(
  directory: string,
  files: readonly TextFile[],
  owner: Owner,
  durable: boolean,
): Promise<string> {
  await using staging = await openStaging(directory, owner);
  const how = { flags: FLAGS, mode: callerMode(0o644) };
  try {
    for (const { name, content } of files) {
      const fd = openat2(staging.fd, name, how);
      try {
        writeFileSync(fd, content);
        fchownSync(fd, owner.uid, owner.gid);
        if (durable) fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    }
  } catch (cause) {
    throw unusableResultDirectory(staging.destination, cause);
  }
  staging.publish();
  return staging.destination;
}
