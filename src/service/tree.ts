import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readSync,
  type Stats,
} from 'node:fs';
import { openInTree } from '../image/tree/path.ts';
import { O_PATH } from '../kernel/at.ts';

/** Files that are read as a whole may be so large, bytes: units, environment files, pid files. */
const TEXT_LIMIT = 256 * 1024;

/** Of a folder with more entries than this, only the first are seen. */
const LIST_LIMIT = 4096;

/** A hostile directory tree, read as somebody whose root it is would: no link leads out of it. */
export class Tree implements Disposable {
  readonly #root: number;

  /** Takes the descriptor of the root directory over. */
  constructor(root: number) {
    this.#root = root;
  }

  static open(directory: string): Tree {
    return new Tree(openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY));
  }

  /** The descriptor of the root directory; this object closes it. */
  get root(): number {
    return this.#root;
  }

  /** The text of a plain file; undefined if it is none, does not exist, or is larger than 256 KiB. */
  readText(path: string): string | undefined {
    return this.#with(path, constants.O_RDONLY, (fd, stats) => {
      if (!stats.isFile() || stats.size > TEXT_LIMIT) return undefined;
      const bytes = Buffer.alloc(stats.size);
      let length = 0;
      for (let count = -1; count !== 0 && length < bytes.length; length += count) {
        count = readSync(fd, bytes, length, bytes.length - length, length);
      }
      return bytes.toString('utf8', 0, length);
    });
  }

  /** What a path leads to, links followed; undefined if nothing is there. */
  stat(path: string): Stats | undefined {
    return this.#with(path, O_PATH, (_, stats) => stats);
  }

  /** What a path itself is. */
  lstat(path: string): Stats | undefined {
    return this.#with(path, O_PATH | constants.O_NOFOLLOW, (_, stats) => stats);
  }

  /** The names in a directory, in order; none if it is not one. */
  list(path: string): string[] {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const names = this.#with(path, flags, (fd) => readdirSync(`/proc/self/fd/${fd}`));
    return (names ?? []).sort().slice(0, LIST_LIMIT);
  }

  [Symbol.dispose](): void {
    closeSync(this.#root);
  }

  #with<Result>(
    path: string,
    flags: number,
    act: (fd: number, stats: Stats) => Result,
  ): Result | undefined {
    const fd = openInTree(this.#root, path, flags);
    if (fd === undefined) return undefined;
    try {
      return act(fd, fstatSync(fd));
    } finally {
      closeSync(fd);
    }
  }
}
