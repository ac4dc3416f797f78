import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { posix } from 'node:path';
import { KilnError } from '../../errors.ts';
import { mkdirat, openat2, openDirectory, openPath, renameat, unlinkat } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';
import { openInTree } from './path.ts';

/** Who a new file or folder belongs to, and its permissions. */
export interface Ownership {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

const PLAIN_DIRECTORY: Ownership = { mode: 0o755, uid: 0, gid: 0 };

/** Nothing else makes or keeps a file of this name. */
const TEMPORARY = '.kiln-new';

/**
 * Writes a file at an absolute path of the tree whose root directory is open as `root`. A file that
 * is there is replaced, never written to: it may be an inode of the package store. Missing folders
 * are made; links on the way are followed inside the tree, one at the end is replaced.
 */
export function writeTreeFile(
  root: number,
  path: string,
  content: Buffer | string,
  ownership: Ownership,
): void {
  const folder = makeTreeDirectories(root, posix.dirname(path));
  const name = posix.basename(path);
  try {
    refuseDirectory(folder, name, path);
    removeIfThere(folder, TEMPORARY);
    const file = openat2(folder, TEMPORARY, {
      flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      mode: 0o600,
    });
    try {
      writeFileSync(file, content);
      fchownSync(file, ownership.uid, ownership.gid);
      fchmodSync(file, ownership.mode);
    } finally {
      closeSync(file);
    }
    renameat(folder, TEMPORARY, folder, name);
  } finally {
    closeSync(folder);
  }
}

/**
 * Replaces a file's text by what `change` makes of it, keeping owner and mode.
 * @returns false, and does nothing, if there is no such file.
 */
export function changeTreeFile(
  root: number,
  path: string,
  change: (text: string) => string,
): boolean {
  const fd = openInTree(root, path, constants.O_RDONLY);
  if (fd === undefined) return false;
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) {
      throw new KilnError('E_IMAGE_TREE', `${path} of the image is no plain file`);
    }
    const { mode, uid, gid } = stat;
    const text = change(readFileSync(fd, 'utf8'));
    writeTreeFile(root, path, text, { mode: mode & 0o7777, uid, gid });
    return true;
  } finally {
    closeSync(fd);
  }
}

/**
 * Opens the folder at an absolute path, made with all that is missing on the way; the caller closes
 * it. `ownership` is for the last one only, and only if it is new.
 */
export function makeTreeDirectories(
  root: number,
  path: string,
  ownership: Ownership = PLAIN_DIRECTORY,
): number {
  const found = openInTree(root, path, constants.O_RDONLY | constants.O_DIRECTORY);
  if (found !== undefined) return found;
  const parent = makeTreeDirectories(root, posix.dirname(path));
  const name = posix.basename(path);
  try {
    mkdirat(parent, name, 0o700);
    const made = openDirectory(parent, name);
    fchownSync(made, ownership.uid, ownership.gid);
    fchmodSync(made, ownership.mode);
    return made;
  } catch (cause) {
    throw new KilnError('E_IMAGE_TREE', `cannot make the folder ${path} in the image`, {
      cause,
      hint: 'a package or a scriptlet has put something else there',
    });
  } finally {
    closeSync(parent);
  }
}

function refuseDirectory(folder: number, name: string, path: string): void {
  let fd: number;
  try {
    fd = openPath(folder, name);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return;
    throw error;
  }
  try {
    if (!fstatSync(fd).isDirectory()) return;
  } finally {
    closeSync(fd);
  }
  throw new KilnError('E_IMAGE_TREE', `${path} is a folder in the image, not a file`);
}

function removeIfThere(folder: number, name: string): void {
  try {
    unlinkat(folder, name);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
}
