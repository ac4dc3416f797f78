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
import {
  AT_FDCWD,
  type FileTimes,
  openDirectory,
  openPath,
  renameat,
  setTimes,
  statAt,
  unlinkat,
} from '../../host/files/at.ts';
import { checkTreeDepth } from '../../host/files/tree-usage.ts';
import { decodeName } from '../../packages/rpm/filename.ts';

const BLOCK = 512;

/** Overlayfs's own; `user.` for mounts with `userxattr`, which a user namespace needs. */
const MARKS = ['user.overlay.', 'trusted.overlay.'];

export interface Merge {
  readonly bytes: number;
  readonly directories: ReadonlySet<string>;
  /** Paths of files that came. */
  readonly files: readonly string[];
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
  using from = closing(openDirectory(AT_FDCWD, upper));
  using to = closing(openDirectory(AT_FDCWD, tree));
  merger.merge(from.fd, to.fd, '', 0);
  return merger;
}

export function cleanUpperTree(tree: string, clamp: ClampTimes): Merge {
  const merger = new Merger(-1, clamp);
  using root = closing(openDirectory(AT_FDCWD, tree));
  merger.clean(root.fd, '', 0);
  return merger;
}

class Merger implements Merge {
  bytes = 0;
  readonly directories = new Set<string>();
  readonly files: string[] = [];
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
      const stat = statAt(from, name)!;
      const there = statAt(to, name);
      if (isWhiteout(stat)) {
        if (there !== undefined) this.#remove(to, name, there);
      } else if (stat.isDirectory()) {
        this.#directory(from, to, name, there, `${path}/${decodeName(name)}`, depth);
      } else {
        if (there?.isDirectory()) this.#remove(to, name, there);
        this.#entry(from, name, stat, path);
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
    using inner = closing(openDirectory(from, name));
    if (there?.isDirectory() && !isOpaque(inner.fd)) {
      using target = closing(openDirectory(to, name));
      this.merge(inner.fd, target.fd, path, depth + 1);
      return;
    }
    if (there !== undefined) this.#remove(to, name, there);
    this.clean(inner.fd, path, depth + 1);
    renameat(from, name, to, name);
  }

  clean(directory: number, path: string, depth: number): void {
    checkTreeDepth(depth);
    this.directories.add(path === '' ? '/' : path);
    clearMarks(directory);
    for (const name of namesIn(directory)) {
      const stat = statAt(directory, name)!;
      if (isWhiteout(stat)) {
        unlinkat(directory, name);
      } else if (stat.isDirectory()) {
        using inner = closing(openDirectory(directory, name));
        this.clean(inner.fd, `${path}/${decodeName(name)}`, depth + 1);
      } else {
        this.#entry(directory, name, stat, path);
      }
    }
    const times = clampTimes(fstatSync(directory, { bigint: true }), this.#clamp);
    if (times !== undefined) setTimes(directory, times);
  }

  #entry(directory: number, name: Buffer, stat: BigIntStats, folder: string): void {
    if (stat.isFile()) {
      this.files.push(`${folder}/${decodeName(name)}`);
      using path = closing(openPath(directory, name));
      // It is known to be a regular file, so opening it neither blocks nor acts.
      using file = closing(openSync(`/proc/self/fd/${path.fd}`, constants.O_RDONLY));
      clearMarks(file.fd);
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
