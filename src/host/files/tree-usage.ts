/** How much of a disk a tree uses. The tree may be hostile, and may change meanwhile. Source: statx(2). */
import { constants } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closeDescriptor } from '../calls/descriptor.ts';
import { cString, unlessErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';
import { AT_FDCWD, DirectoryReader, openat2, SAME_DISK_DIRECTORY } from './at.ts';

/** Trees that are copied or merged may be so deep: each level takes descriptors and stack. */
const MAX_TREE_DEPTH = 1000;

export function checkTreeDepth(depth: number): void {
  if (depth <= MAX_TREE_DEPTH) return;
  const what = `a tree has more than ${MAX_TREE_DEPTH} folders within folders`;
  throw new KilnError('E_TREE_DEPTH', what, {
    hint: 'what wrote it is at fault: remove the deep folders in the sandbox that made them',
  });
}

/** The unit of st_blocks, whatever the block size of the file system. */
const BLOCK = 512;

export interface TreeUsage {
  readonly bytes: number;
  readonly entries: number;
}

const AT_SYMLINK_NOFOLLOW = 0x100;
const STATX_BASIC_STATS = 0x7ff;
const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;

class EntryStatus {
  /** struct statx of linux/stat.h, in words of 32 bits. */
  readonly #words = new Uint32Array(64);

  read(directory: number, name: Buffer): this {
    const [flags, mask] = [AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS];
    const result = tryCall('statx', directory, cString(name), flags, mask, this.#words);
    checked('statx', result, name);
    return this;
  }

  get links(): number {
    return this.#words[4]!;
  }

  get isDirectory(): boolean {
    return (this.#words[7]! & S_IFMT) === S_IFDIR;
  }

  get inode(): string {
    return `${this.#words[8]}:${this.#words[9]}`;
  }

  get blocks(): number {
    return this.#words[12]! + this.#words[13]! * 2 ** 32;
  }
}

interface Level {
  readonly fd: number;
  readonly entries: DirectoryReader;
  readonly inner: Buffer[];
}

/** Stops at more than `most`. Leaves out files without a name. @throws KilnError E_TREE_DEPTH; SyscallError */
export function treeUsage(path: string, most: TreeUsage): TreeUsage {
  const status = new EntryStatus();
  const linked = new Set<string>();
  const levels: Level[] = [];
  let bytes = 0;
  let entries = 0;
  const open = (fd: number) => levels.push({ fd, entries: new DirectoryReader(fd), inner: [] });
  try {
    open(openat2(AT_FDCWD, path, { flags: constants.O_RDONLY | constants.O_DIRECTORY }));
    for (let level = levels.at(-1); level !== undefined; level = levels.at(-1)) {
      if (bytes > most.bytes || entries > most.entries) break;
      const next = level.inner.pop();
      if (next !== undefined) {
        checkTreeDepth(levels.length);
        const fd = unlessGone(() => openat2(level.fd, next, SAME_DISK_DIRECTORY));
        if (fd !== undefined) open(fd);
        continue;
      }
      const piece = level.entries.next();
      if (piece === undefined) {
        levels.pop();
        closeDescriptor(level.fd);
        continue;
      }
      for (const { name } of piece) {
        if (unlessGone(() => status.read(level.fd, name)) === undefined) continue;
        entries++;
        if (status.isDirectory) level.inner.push(name);
        else if (status.links > 1) {
          if (linked.has(status.inode)) continue;
          linked.add(status.inode);
        }
        bytes += status.blocks * BLOCK;
      }
    }
  } finally {
    for (const { fd } of levels) closeDescriptor(fd);
  }
  return { bytes, entries };
}

function unlessGone<Result>(act: () => Result): Result | undefined {
  return unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'EXDEV'], act);
}
