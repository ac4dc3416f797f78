/**
 * A folder that others may write to, used through its descriptor. Links that somebody put into the folder are
 * never followed, neither as the last name nor on the way.
 */
import { randomUUID } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { hasErrno } from '../calls/libc.ts';
import { callerMode } from '../process/own-umask.ts';
import { mkdirat, openat2, openDirectory, renameat, unlinkat } from './at.ts';

interface FolderOwner {
  readonly uid: number;
  readonly gid: number;
}

const CREATE = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o600,
};
/** O_NONBLOCK: a fifo must not block kiln. */
const READ = { flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK };

/** All methods throw the system's error; names are single components. Dispose of it to close it. */
export class Folder implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Opens an existing folder. Links in this path are followed, because a person named it. */
  static open(path: string): Folder {
    return new Folder(openSync(path, constants.O_RDONLY | constants.O_DIRECTORY));
  }

  /** A path that names this folder for calls of Node's, even if the folder is renamed meanwhile. */
  get path(): string {
    return `/proc/self/fd/${this.#fd}`;
  }

  /** Opens a folder in this one, and makes it if missing (mode 0755, less the caller's umask). A link there is an error. */
  inner(name: string, owner?: FolderOwner): Folder {
    let made = false;
    try {
      mkdirat(this.#fd, name, 0o700);
      made = true;
    } catch (error) {
      if (!hasErrno(error, 'EEXIST')) throw error;
    }
    const fd = openDirectory(this.#fd, name);
    if (made) {
      if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
      fchmodSync(fd, callerMode(0o755));
    }
    return new Folder(fd);
  }

  /** Opens a folder in this one; undefined where there is none, or only a link to one. */
  existing(name: string): Folder | undefined {
    try {
      return new Folder(openDirectory(this.#fd, name));
    } catch (error) {
      if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
      throw error;
    }
  }

  names(): string[] {
    return readdirSync(this.path);
  }

  /** Makes a new file and opens it for writing; the caller closes it. Mode 0644, less the caller's umask. */
  create(name: string, owner?: FolderOwner): number {
    const fd = openat2(this.#fd, name, CREATE);
    if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
    fchmodSync(fd, callerMode(0o644));
    return fd;
  }

  /** Replaces a file as a whole: a reader sees the old content or the new one. */
  replace(name: string, content: string | Buffer, owner?: FolderOwner): void {
    const temporary = `.${name}.${randomUUID()}`;
    try {
      const fd = this.create(temporary, owner);
      try {
        writeFileSync(fd, content);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameat(this.#fd, temporary, this.#fd, name);
    } catch (error) {
      this.remove(temporary);
      throw error;
    }
  }

  /** Reads a small file; undefined where there is none, or something else than a regular file. */
  read(name: string, limit: number): string | undefined {
    let fd: number;
    try {
      fd = openat2(this.#fd, name, READ);
    } catch (error) {
      if (hasErrno(error, 'ENOENT', 'ELOOP', 'ENXIO')) return undefined;
      throw error;
    }
    try {
      const stats = fstatSync(fd);
      return stats.isFile() && stats.size <= limit ? readFileSync(fd, 'utf8') : undefined;
    } finally {
      closeSync(fd);
    }
  }

  has(name: string): boolean {
    return lstatSync(`${this.path}/${name}`, { throwIfNoEntry: false })?.isFile() ?? false;
  }

  /** Removes a file, or a link itself; what is missing is fine. */
  remove(name: string): void {
    try {
      unlinkat(this.#fd, name);
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw error;
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

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
      // Another process made the directory meanwhile.
      if (hasErrno(error, 'EEXIST')) continue;
      throw error;
    }
    if (owner === undefined) continue;
    const handle = await openExisting(directory);
    try {
      await handle.chown(owner.uid, owner.gid);
    } finally {
      await handle.close();
    }
  }
  await (await openExisting(path)).close();
}

function openExisting(path: string) {
  return open(path, constants.O_RDONLY | constants.O_DIRECTORY);
}
