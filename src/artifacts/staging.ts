/**
 * Artifacts are put together in a hidden directory inside the result directory, then renamed into
 * place: what has an artifact's name is whole. Whoever dies on the way leaves such a directory
 * behind, unlocked, and the next collection into the same result directory removes it.
 */

import { randomUUID } from 'node:crypto';
import { closeSync, constants, fchownSync, fstatSync, readdirSync, writeFileSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { mkdirat, openat2, openDirectory, openPath, renameat, unlinkat } from '../host/files/at.ts';
import { tryLockDescriptor } from '../host/files/flock.ts';
import { makeDirectory } from '../host/files/folder.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { callerMode } from '../host/process/own-umask.ts';
import { type Owner, unusableResultDirectory } from './destination.ts';
import { fromBytes, joinBytes, quoteName } from './pattern.ts';
import { descriptorPath } from './source.ts';

const PREFIX = '.kiln-collecting-';

/** A result directory with a place to prepare its content. */
export interface Staging extends AsyncDisposable {
  /** The result directory, absolute. */
  readonly destination: string;
  /** Descriptor of the directory to fill. */
  readonly fd: number;
  /**
   * Moves everything into the result directory. Existing files are replaced one at a time, each by
   * a whole one; existing directories keep what else they hold.
   * @throws KilnError E_RESULTDIR before anything has moved, where a directory would have to become
   * a file or a file or link a directory
   */
  publish(): void;
}

/**
 * Opens the result directory, makes it if missing (then it is `owner`'s), clears away what dead
 * collections left in it, and starts a new one. Disposing removes what was not published.
 * @throws KilnError E_RESULTDIR
 */
export async function openStaging(destination: string, owner: Owner): Promise<Staging> {
  const path = resolve(destination);
  try {
    await makeDirectory(path, owner);
    await removeDeadStaging(path);
    return await startStaging(path);
  } catch (error) {
    throw unusable(path, error);
  }
}

/**
 * Removes what collections that died left in `destination`; those still going on are left alone.
 * For a collector of garbage that remembers result directories.
 */
async function removeDeadStaging(destination: string): Promise<void> {
  for (const name of await readdir(destination)) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(destination, name);
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const handle = await open(path, flags).catch(() => undefined);
    if (handle === undefined) continue;
    try {
      // Only what is ours and closed to others: nobody can have put anything else there.
      const stats = await handle.stat();
      const ours = stats.uid === process.geteuid?.() && (stats.mode & 0o077) === 0;
      if (ours && tryLockDescriptor(handle.fd)) await removeTree(path);
    } finally {
      await handle.close();
    }
  }
}

function unusable(path: string, cause: unknown): unknown {
  if (cause instanceof KilnError && cause.code === 'E_RESULTDIR') return cause;
  return unusableResultDirectory(path, cause);
}

async function startStaging(destination: string): Promise<Staging> {
  const handle = await open(destination, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    for (;;) {
      const name = `${PREFIX}${randomUUID()}`;
      mkdirat(handle.fd, name, 0o700);
      const fd = openDirectory(handle.fd, name);
      // Somebody clearing away dead ones may have been quicker than the lock: then once more.
      if (tryLockDescriptor(fd) && fstatSync(fd).nlink > 0) {
        return {
          destination,
          fd,
          publish: () => publish(destination, fd, handle.fd),
          [Symbol.asyncDispose]: async () => {
            try {
              await removeTree(join(descriptorPath(handle.fd), name));
            } finally {
              closeSync(fd);
              await handle.close();
            }
          },
        };
      }
      closeSync(fd);
    }
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function publish(destination: string, from: number, to: number): void {
  try {
    checkRoom(from, to, '');
    move(from, to);
  } catch (error) {
    throw unusable(destination, error);
  }
}

/** What is at `name`: nothing, a directory, or something else. */
function kindAt(dirfd: number, name: Buffer): 'none' | 'directory' | 'other' {
  let fd: number;
  try {
    fd = openPath(dirfd, name);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return 'none';
    throw error;
  }
  try {
    return fstatSync(fd).isDirectory() ? 'directory' : 'other';
  } finally {
    closeSync(fd);
  }
}

function namesIn(fd: number): Buffer[] {
  return readdirSync(descriptorPath(fd), { encoding: 'buffer' });
}

/** Opens `name` in both directories, which is a directory in both, for the time of `act`. */
function inBoth(from: number, to: number, name: Buffer, act: (a: number, b: number) => void) {
  const inner = openDirectory(from, name);
  using _inner = closing(inner);
  const outer = openDirectory(to, name);
  using _outer = closing(outer);
  act(inner, outer);
}

function checkRoom(from: number, to: number, below: string): void {
  for (const name of namesIn(from)) {
    const there = kindAt(to, name);
    if (there === 'none') continue;
    const path = joinBytes(below, fromBytes(name));
    const mine = kindAt(from, name);
    if (mine === 'directory' && there === 'directory') {
      inBoth(from, to, name, (a, b) => checkRoom(a, b, path));
    } else if (mine === 'directory' || there === 'directory') {
      const [is, becomes] =
        there === 'directory' ? ['a directory', 'a file'] : ['not a directory', 'a directory'];
      throw new KilnError(
        'E_RESULTDIR',
        `${quoteName(path)} in the result directory is ${is}, the artifact is ${becomes}`,
        { hint: 'remove it, or name an empty result directory' },
      );
    }
  }
}

function move(from: number, to: number): void {
  for (const name of namesIn(from)) {
    if (kindAt(from, name) === 'directory' && kindAt(to, name) === 'directory') {
      inBoth(from, to, name, move);
      unlinkat(from, name, { directory: true });
    } else {
      renameat(from, name, to, name);
    }
  }
}

const FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** A file for a result directory. */
export interface TextFile {
  /** Without a folder. */
  readonly name: string;
  readonly content: string | Buffer;
}

/**
 * Writes one file into a result directory: whoever reads it sees the old one or the new one, whole. It reaches
 * the disk when the kernel likes, as artifacts do.
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
  return join(await writeTexts(directory, [{ name, content }], owner), name);
}

/** Like {@link writeText} for several files, which appear one after another. Returns the directory's absolute path. */
export async function writeTexts(
  directory: string,
  files: readonly TextFile[],
  owner: Owner,
): Promise<string> {
  await using staging = await openStaging(directory, owner);
  const how = { flags: FLAGS, mode: callerMode(0o644) };
  try {
    for (const { name, content } of files) {
      const fd = openat2(staging.fd, name, how);
      using _fd = closing(fd);
      writeFileSync(fd, content);
      fchownSync(fd, owner.uid, owner.gid);
    }
  } catch (cause) {
    throw unusableResultDirectory(staging.destination, cause);
  }
  staging.publish();
  return staging.destination;
}
