/** A folder that others may write to, used through its descriptor. Links that lie in it are never followed. */
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
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname } from 'node:path';
import { closing } from '../calls/descriptor.ts';
import { succeeds, unlessErrno } from '../calls/libc.ts';
import { callerMode } from '../process/own-umask.ts';
import { mkdirat, NEW_FILE, openat2, openDirectory, renameat, unlinkat } from './at.ts';
import { heldParts, heldPath, openFolder } from './held.ts';

interface FolderOwner {
  readonly uid: number;
  readonly gid: number;
}

/** S_ISGID: what is made in such a folder gets it, and its group. */
const SET_GROUP = 0o2000;

const READ = { flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK };

export class Folder implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  static open(path: string): Folder {
    return new Folder(openFolder(path));
  }

  get descriptor(): number {
    return this.#fd;
  }

  /** Calls of Node's reach the folder by this path even if it is renamed. */
  get path(): string {
    return `/proc/self/fd/${this.#fd}`;
  }

  inner(name: string, owner?: FolderOwner): Folder {
    const made = succeeds(['EEXIST'], () => mkdirat(this.#fd, name, 0o700));
    const fd = openDirectory(this.#fd, name);
    if (made) {
      if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
      fchmodSync(fd, callerMode(0o755) | (fstatSync(fd).mode & SET_GROUP));
    }
    return new Folder(fd);
  }

  existing(name: string): Folder | undefined {
    const absent = ['ENOENT', 'ENOTDIR', 'ELOOP'];
    return unlessErrno(absent, () => new Folder(openDirectory(this.#fd, name)));
  }

  names(): string[] {
    return readdirSync(this.path);
  }

  create(name: string, owner?: FolderOwner): number {
    const fd = openat2(this.#fd, name, NEW_FILE);
    if (owner !== undefined) fchownSync(fd, owner.uid, owner.gid);
    fchmodSync(fd, callerMode(0o644));
    return fd;
  }

  replace(name: string, content: string | Buffer, owner?: FolderOwner): void {
    const temporary = `.${name}.${randomUUID()}`;
    try {
      using file = closing(this.create(temporary, owner));
      writeFileSync(file.fd, content);
      fsyncSync(file.fd);
      renameat(this.#fd, temporary, this.#fd, name);
    } catch (error) {
      this.remove(temporary);
      throw error;
    }
  }

  read(name: string, limit: number): string | undefined {
    const open = () => closing(openat2(this.#fd, name, READ));
    using file = unlessErrno(['ENOENT', 'ELOOP', 'ENXIO'], open);
    if (file === undefined) return undefined;
    const stats = fstatSync(file.fd);
    return stats.isFile() && stats.size <= limit ? readFileSync(file.fd, 'utf8') : undefined;
  }

  has(name: string): boolean {
    return lstatSync(`${this.path}/${name}`, { throwIfNoEntry: false })?.isFile() ?? false;
  }

  remove(name: string): void {
    unlessErrno(['ENOENT'], () => unlinkat(this.#fd, name));
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/**
 * Makes a directory and those above it that are missing; what is made is `owner`'s. Node's own recursive mkdir
 * never ends where none can be made (in /proc), and blocks its whole process.
 * @param path absolute
 * @throws the system error, ENOTDIR where something else has the name
 */
export function makeDirectory(path: string, owner?: FolderOwner): void {
  const held = heldParts(path);
  const missing: string[] = held?.rest.split('/').filter((name) => name !== '') ?? [];
  let there = held === undefined ? path : heldPath(held.fd);
  if (held === undefined)
    for (; !existsSync(there); there = dirname(there)) missing.unshift(basename(there));
  let folder = Folder.open(there);
  for (const name of missing) {
    // By descriptor: whoever may write there could put a link in the place of what was made.
    using above = folder;
    folder = above.inner(name, owner);
  }
  folder[Symbol.dispose]();
}
