/**
 * Artifacts are put together in a hidden directory inside the result directory, then renamed into place. A process
 * that dies leaves its directory behind, unlocked; the next collection into this result directory removes it.
 */

import { randomUUID } from 'node:crypto';
import {
  closeSync,
  fchownSync,
  fstatSync,
  readdirSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt } from '../host/calls/libc.ts';
import {
  mkdirat,
  NEW_FILE,
  openat2,
  openDirectory,
  renameat,
  statAt,
  unlinkat,
} from '../host/files/at.ts';
import { tryLockDescriptor } from '../host/files/flock.ts';
import { Folder, makeDirectory } from '../host/files/folder.ts';
import type { HeldPath } from '../host/files/held.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { callerMode } from '../host/process/own-umask.ts';
import { fromBytes, joinBytes, quoteName } from './byte-string.ts';
import { type Owner, resultDirectoryError } from './destination.ts';
import { descriptorPath } from './source.ts';

const PREFIX = '.kiln-collecting-';

/**
 * Makes the result directory if it is missing (then it is `owner`'s), removes what dead collections left in it, and
 * starts a new one. Disposing removes what was not published.
 * @throws KilnError E_RESULTDIR
 */
export async function openStaging(path: HeldPath, owner: Owner) {
  try {
    makeDirectory(path, owner);
    using stack = new DisposableStack();
    const parent = stack.use(Folder.open(path));
    await removeDeadStaging(parent);
    const started = startStaging(path, parent);
    stack.move();
    return started;
  } catch (error) {
    throw resultDirectoryError(path, error);
  }
}

async function removeDeadStaging(parent: Folder): Promise<void> {
  for (const name of parent.names()) {
    if (!name.startsWith(PREFIX)) continue;
    using folder = attempt(() => closing(openDirectory(parent.descriptor, name)));
    if (folder === undefined) continue;
    // Only what is ours and closed to others: nobody can have put anything else there.
    const { uid, mode } = fstatSync(folder.fd);
    const ours = uid === process.geteuid?.() && (mode & 0o077) === 0;
    if (ours && tryLockDescriptor(folder.fd)) await removeTree(join(parent.path, name));
  }
}

/** Owns `parent` from here on, unless it throws. */
function startStaging(destination: string, parent: Folder) {
  using stack = new DisposableStack();
  for (;;) {
    const name = `${PREFIX}${randomUUID()}`;
    mkdirat(parent.descriptor, name, 0o700);
    const fd = openDirectory(parent.descriptor, name);
    // Another collection may have removed the directory before it was locked: try again.
    if (!tryLockDescriptor(fd) || fstatSync(fd).nlink === 0) {
      closeSync(fd);
      continue;
    }
    stack.use(closing(fd));
    const held = stack.move();
    return {
      destination,
      /** How long the folder's own path is, bytes. */
      length: readlinkSync(parent.path, { encoding: 'buffer' }).length,
      fd,
      publish: () => publish(destination, fd, parent.descriptor),
      [Symbol.asyncDispose]: async () => {
        using _parent = parent;
        using _ = held;
        await removeTree(join(parent.path, name));
      },
    };
  }
}

/**
 * Moves everything into the result directory: files are replaced one at a time, directories merged.
 * @throws KilnError E_RESULTDIR before anything has moved, where one is a directory and the other is not
 */
function publish(destination: string, from: number, to: number): void {
  try {
    checkRoom(from, to, '');
    move(from, to);
  } catch (error) {
    throw resultDirectoryError(destination, error);
  }
}

function kindAt(dirfd: number, name: Buffer): 'none' | 'directory' | 'other' {
  const stats = statAt(dirfd, name);
  if (stats === undefined) return 'none';
  return stats.isDirectory() ? 'directory' : 'other';
}

function namesIn(fd: number): Buffer[] {
  return readdirSync(descriptorPath(fd), { encoding: 'buffer' });
}

function inBoth(from: number, to: number, name: Buffer, act: (a: number, b: number) => void) {
  using inner = closing(openDirectory(from, name));
  using outer = closing(openDirectory(to, name));
  act(inner.fd, outer.fd);
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
        there === 'directory' ? ['a folder', 'a file'] : ['not a folder', 'a folder'];
      throw new KilnError(
        'E_RESULTDIR',
        `${quoteName(path)} in the result folder is ${is}, the artifact is ${becomes}`,
        { hint: 'remove it, or name an empty result folder' },
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

export interface TextFile {
  readonly name: string;
  readonly content: string | Buffer;
}

/**
 * Writes one file into a result directory, made if missing. Readers see the old one or the new one, whole; it
 * reaches the disk when the kernel likes, as artifacts do.
 * @throws KilnError E_RESULTDIR
 */
export async function writeText(
  directory: HeldPath,
  name: string,
  content: string | Buffer,
  owner: Owner,
): Promise<void> {
  await writeTexts(directory, [{ name, content }], owner);
}

export async function writeTexts(
  directory: HeldPath,
  files: readonly TextFile[],
  owner: Owner,
): Promise<string> {
  await using staging = await openStaging(directory, owner);
  const how = { ...NEW_FILE, mode: callerMode(0o644) };
  try {
    for (const { name, content } of files) {
      using file = closing(openat2(staging.fd, name, how));
      writeFileSync(file.fd, content);
      fchownSync(file.fd, owner.uid, owner.gid);
    }
  } catch (cause) {
    throw resultDirectoryError(staging.destination, cause);
  }
  staging.publish();
  return staging.destination;
}
