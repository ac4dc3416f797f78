import { closeSync, constants, fstatSync, openSync, readdirSync, type Stats } from 'node:fs';
import { normalize } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import {
  AT_FDCWD,
  O_PATH,
  openat2,
  openDirectory,
  openInTree,
  openPath,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
} from '../../host/files/at.ts';
import { contentDigest, readInto } from '../../host/files/content.ts';

/** The largest file that is read as a whole, bytes: units, environment files, pid files. */
const TEXT_LIMIT = 256 * 1024;

/** Of a larger folder, only this many entries are seen. */
const LIST_LIMIT = 4096;

/** A hostile directory tree, read as a process sees it whose root it is: no link leads out of it. */
export class Tree implements Disposable {
  /** Where its /etc is. */
  readonly root: number;
  readonly #image: number | undefined;
  readonly #mounted: readonly string[];
  #isOpen = true;

  /**
   * @param image where all but /etc and /var is, if that is elsewhere
   * @param mounted what lies on other paths then, and is not seen here
   */
  constructor(root: number, image?: number, mounted: readonly string[] = []) {
    this.root = root;
    this.#mounted = mounted;
    this.#image = image;
  }

  static open(directory: string): Tree {
    return new Tree(openFolder(directory));
  }

  /** An image's tree with the /etc and /var of another folder. @param mounted targets of other mounts */
  static withOwn(image: string, own: string, mounted: readonly string[] = []): Tree {
    const root = openFolder(own);
    try {
      return new Tree(root, openFolder(image), mounted);
    } catch (error) {
      closeSync(root);
      throw error;
    }
  }

  /** Whether a file that is there in the sandbox is not seen here: what is made anew at each start, or mounted. */
  lacks(path: string): boolean {
    if (this.#image === undefined) return false;
    const whole = normalize(path);
    if (this.#mounted.some((target) => isBelow(whole, normalize(target)))) return true;
    return /^\/(?:(?:var\/)?(?:run|tmp)|proc|sys|dev)(?:\/|$)/.test(whole);
  }

  readText(path: string): string | undefined {
    return this.#with(path, constants.O_RDONLY, (fd, stats) => {
      if (!stats.isFile() || stats.size > TEXT_LIMIT) return undefined;
      return readInto(Buffer.alloc(stats.size), fd, 0).toString('utf8');
    });
  }

  stat(path: string): Stats | undefined {
    return this.#with(path, O_PATH, (_, stats) => stats);
  }

  lstat(path: string): Stats | undefined {
    return this.#with(path, O_PATH | constants.O_NOFOLLOW, (_, stats) => stats);
  }

  list(path: string): string[] {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const names = this.#with(path, flags, (fd) => readdirSync(`/proc/self/fd/${fd}`));
    return (names ?? []).sort().slice(0, LIST_LIMIT);
  }

  /** The files `*.conf` of some folders, by name. The first of a name counts, even if it is empty or cannot be read. */
  configuration(folders: readonly string[]): string[] {
    const found = new Map<string, string>();
    for (const folder of folders) {
      for (const name of this.list(folder)) {
        if (name.endsWith('.conf') && !found.has(name)) found.set(name, `${folder}/${name}`);
      }
    }
    return [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, path]) => path);
  }

  [Symbol.dispose](): void {
    // Of an instance that is closed twice: the number may be another's by then.
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeSync(this.root);
    if (this.#image !== undefined) closeSync(this.#image);
  }

  #with<Result>(
    path: string,
    flags: number,
    act: (fd: number, stats: Stats) => Result,
  ): Result | undefined {
    using file =
      this.#image === undefined
        ? openInTree(this.root, path, flags)
        : openInParts(this.#image, this.root, path, flags);
    return file && act(file.fd, fstatSync(file.fd));
  }
}

function isBelow(path: string, folder: string): boolean {
  return `${path}/`.startsWith(`${folder.replace(/\/+$/, '')}/`);
}

function openFolder(path: string): number {
  return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
}

/** Links on the way to a file: more make a circle (path_resolution(7)). */
const LINKS_MAX = 40;

/** As openInTree(), where /etc and /var are those of the folder `own`: links lead from one to the other. */
function openInParts(image: number, own: number, path: string, flags: number) {
  const isWanted = (flags & constants.O_NOFOLLOW) !== 0;
  const at: string[] = [];
  const rest = path.split('/');
  const open = (how: number) => {
    const base = ['etc', 'var'].includes(at[0] ?? '') ? own : image;
    const blocks = (how & O_PATH) === 0 ? constants.O_NONBLOCK : 0;
    return unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO'], () =>
      closing(
        openat2(base, at.join('/') || '.', {
          flags: how | constants.O_NOFOLLOW | blocks,
          resolve: RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
        }),
      ),
    );
  };
  for (let links = 0; rest.length > 0; ) {
    const name = rest.shift() ?? '';
    if (name === '..') at.pop();
    if (name === '' || name === '.' || name === '..') continue;
    at.push(name);
    using found = open(O_PATH);
    if (found === undefined) return undefined;
    if (!fstatSync(found.fd).isSymbolicLink() || (isWanted && rest.length === 0)) continue;
    if (++links > LINKS_MAX) return undefined;
    const target = readlinkat(found.fd, '').toString('latin1');
    if (target.startsWith('/')) at.length = 0;
    else at.pop();
    rest.unshift(...target.split('/'));
  }
  return open(flags);
}

export interface TreeEntry {
  readonly kind: 'file' | 'directory' | 'link' | 'other';
  readonly identity: string;
}

/** Deeper folders are ignored: no configuration lies there. */
const MAX_DEPTH = 64;

/**
 * By path (`apache2/apache2.conf`); no link is followed, names that are not UTF-8 are left out. The tree may
 * be hostile, but must not change meanwhile.
 */
export function treeEntries(directory: string): Map<string, TreeEntry> {
  const entries = new Map<string, TreeEntry>();
  using root = closing(openDirectory(AT_FDCWD, directory));
  collect(root.fd, '', 0, entries);
  return entries;
}

function collect(
  directory: number,
  prefix: string,
  depth: number,
  into: Map<string, TreeEntry>,
): void {
  for (const name of readdirSync(`/proc/self/fd/${directory}`).sort()) {
    if (name.includes('\ufffd')) continue;
    const path = prefix + name;
    const entry = entryOf(directory, name);
    into.set(path, entry);
    if (entry.kind !== 'directory' || depth === MAX_DEPTH) continue;
    using inner = closing(openDirectory(directory, name));
    collect(inner.fd, `${path}/`, depth + 1, into);
  }
}

function entryOf(directory: number, name: string): TreeEntry {
  using entry = closing(openPath(directory, name));
  const stat = fstatSync(entry.fd);
  const owner = `${stat.uid}:${stat.gid}`;
  const mode = (stat.mode & 0o7777).toString(8);
  if (stat.isDirectory()) return { kind: 'directory', identity: `directory ${mode} ${owner}` };
  if (stat.isSymbolicLink()) {
    return { kind: 'link', identity: `link ${readlinkat(directory, name).toString('latin1')}` };
  }
  if (!stat.isFile()) return { kind: 'other', identity: 'other' };
  return { kind: 'file', identity: `file ${mode} ${owner} ${digest(directory, name)}` };
}

function digest(directory: number, name: string): string {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW;
  using file = closing(openat2(directory, name, { flags }));
  return contentDigest(file.fd);
}
