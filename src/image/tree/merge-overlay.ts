import {
  type BigIntStats,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  openSync,
  readdirSync,
} from 'node:fs';
import {
  closing,
  getXattr,
  listXattrs,
  removeXattr,
  setXattr,
} from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import {
  type FileTimes,
  openDirectory,
  openPath,
  renameat,
  setTimes,
  unlinkat,
} from '../../host/files/at.ts';
import { checkTreeDepth } from '../../host/files/tree-usage.ts';
import { decodeName } from '../../packages/rpm/filename.ts';

const BLOCK = 512;

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** Overlayfs's own; `user.` for mounts with `userxattr`, which a user namespace needs. */
const MARKS = ['user.overlay.', 'trusted.overlay.'];

export interface Merge {
  readonly bytes: number;
  readonly directories: ReadonlySet<string>;
}

/** Times newer than `after` become `to`, or every image would differ. Nanoseconds since 1970. */
export interface ClampTimes {
  readonly after: bigint;
  readonly to: bigint;
}

/**
 * Brings the tree into the state that an overlay of `upper` on it shows. Files are moved: both must be on one
 * file system, and nothing may use the overlay.
 * Entries that a sandbox wrote are handled one by one below open directories; no link is followed. A replaced
 * directory moves to the open directory `trash`, because deleting takes time; of a file only the name is
 * removed, which leaves the store's inode alone.
 */
export function mergeOverlay(upper: string, tree: string, trash: number, clamp: ClampTimes): Merge {
  const merger = new Merger(trash, clamp);
  const from = openSync(upper, DIRECTORY);
  using _from = closing(from);
  const to = openSync(tree, DIRECTORY);
  using _to = closing(to);
  merger.merge(from, to, '', 0);
  return merger;
}

export function cleanUpperTree(
  tree: string,
  clamp: ClampTimes,
): Pick<Merge, 'bytes' | 'directories'> {
  const merger = new Merger(-1, clamp);
  const root = openSync(tree, DIRECTORY);
  using _root = closing(root);
  merger.clean(root, '', 0);
  return merger;
}

class Merger implements Merge {
  bytes = 0;
  readonly directories = new Set<string>();
  readonly #trash: number;
  readonly #clamp: ClampTimes;
  #serial = 0;

  constructor(trash: number, clamp: ClampTimes) {
    this.#trash = trash;
    this.#clamp = clamp;
  }

  merge(from: number, to: number, path: string, depth: number): void {
    checkTreeDepth(depth);
    this.directories.add(path === '' ? '/' : path);
    const before = fstatSync(to, { bigint: true });
    for (const name of namesIn(from)) {
      const stat = entryOf(from, name)!;
      const there = entryOf(to, name);
      if (isWhiteout(stat)) {
        if (there !== undefined) this.#remove(to, name, there);
      } else if (stat.isDirectory()) {
        this.#directory(from, to, name, there, `${path}/${decodeName(name)}`, depth);
      } else {
        if (there?.isDirectory()) this.#remove(to, name, there);
        this.#entry(from, name, stat);
        renameat(from, name, to, name);
      }
    }
    copyMetadata(from, to, before, this.#clamp);
  }

  #directory(
    from: number,
    to: number,
    name: Buffer,
    there: BigIntStats | undefined,
    path: string,
    depth: number,
  ): void {
    const inner = openDirectory(from, name);
    using _inner = closing(inner);
    if (there?.isDirectory() && !isOpaque(inner)) {
      const target = openDirectory(to, name);
      using _target = closing(target);
      this.merge(inner, target, path, depth + 1);
      return;
    }
    if (there !== undefined) this.#remove(to, name, there);
    this.clean(inner, path, depth + 1);
    renameat(from, name, to, name);
  }

  clean(directory: number, path: string, depth: number): void {
    checkTreeDepth(depth);
    this.directories.add(path === '' ? '/' : path);
    clearMarks(directory);
    for (const name of namesIn(directory)) {
      const stat = entryOf(directory, name)!;
      if (isWhiteout(stat)) {
        unlinkat(directory, name);
      } else if (stat.isDirectory()) {
        const inner = openDirectory(directory, name);
        using _inner = closing(inner);
        this.clean(inner, `${path}/${decodeName(name)}`, depth + 1);
      } else {
        this.#entry(directory, name, stat);
      }
    }
    const times = clampTimes(fstatSync(directory, { bigint: true }), this.#clamp);
    if (times !== undefined) setTimes(directory, times);
  }

  #entry(directory: number, name: Buffer, stat: BigIntStats): void {
    if (stat.isFile()) {
      withFile(directory, name, clearMarks);
      this.bytes += Number(stat.blocks) * BLOCK;
    }
    const times = clampTimes(stat, this.#clamp);
    if (times !== undefined) setTimes(directory, times, name);
  }

  #remove(directory: number, name: Buffer, stat: BigIntStats): void {
    if (stat.isDirectory()) renameat(directory, name, this.#trash, `displaced-${this.#serial++}`);
    else unlinkat(directory, name);
  }
}

function namesIn(directory: number): Buffer[] {
  return readdirSync(`/proc/self/fd/${directory}`, { encoding: 'buffer' });
}

function entryOf(directory: number, name: Buffer): BigIntStats | undefined {
  let fd: number;
  try {
    fd = openPath(directory, name);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
  using _fd = closing(fd);
  return fstatSync(fd, { bigint: true });
}

/** Overlayfs marks a deleted entry with a character device 0/0. */
function isWhiteout(stat: BigIntStats): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0n;
}

function isOpaque(directory: number): boolean {
  return MARKS.some((mark) => getXattr(directory, `${mark}opaque`)?.toString() === 'y');
}

function clearMarks(fd: number): void {
  for (const name of listXattrs(fd)) {
    if (MARKS.some((mark) => name.startsWith(mark))) removeXattr(fd, name);
  }
}

function withFile(directory: number, name: Buffer, act: (fd: number) => void): void {
  const path = openPath(directory, name);
  using _path = closing(path);
  // It is known to be a regular file, so opening it neither blocks nor acts.
  const fd = openSync(`/proc/self/fd/${path}`, constants.O_RDONLY);
  using _fd = closing(fd);
  act(fd);
}

function copyMetadata(from: number, to: number, before: BigIntStats, clamp: ClampTimes): void {
  const stat = fstatSync(from, { bigint: true });
  if (stat.uid !== before.uid || stat.gid !== before.gid) {
    fchownSync(to, Number(stat.uid), Number(stat.gid));
  }
  fchmodSync(to, Number(stat.mode) & 0o7777);
  const wanted = listXattrs(from).filter((name) => !MARKS.some((mark) => name.startsWith(mark)));
  for (const name of wanted) setXattr(to, name, getXattr(from, name) ?? Buffer.alloc(0));
  for (const name of listXattrs(to)) if (!wanted.includes(name)) removeXattr(to, name);
  setTimes(to, clampTimes(stat, clamp) ?? stat);
}

function clampTimes(stat: BigIntStats, clamp: ClampTimes): FileTimes | undefined {
  return stat.mtimeNs <= clamp.after ? undefined : { atimeNs: clamp.to, mtimeNs: clamp.to };
}
