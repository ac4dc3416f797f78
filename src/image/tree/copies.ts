import { closeSync, constants, copyFileSync, fchmodSync } from 'node:fs';
import {
  type FileTimes,
  linkat,
  openat2,
  openDirectory,
  setTimes,
  symlinkat,
} from '../../kernel/at.ts';
import { getXattr, setXattr } from '../../kernel/xattr.ts';
import { encodeName } from '../../rpm/filename.ts';
import type { RpmFile, RpmPackage } from '../../rpm/package.ts';

const NANOSECONDS = 1_000_000_000n;
export const PERMISSIONS = 0o7777;
export const SET_ID_BITS = 0o6000;

interface Copy {
  readonly directory: number;
  readonly name: Buffer | string;
  readonly capability: Buffer | undefined;
}

/** Copies of the store's files in one tree: what is one inode there is one here. */
export class Copies {
  /** A copy that stands for an inode of the store: its further hard links are links to the copy. */
  readonly #copies = new Map<string, Copy>();
  readonly #kept: number[] = [];

  /**
   * Copies a file or a symbolic link of an open folder to another, without set-id bits; returns its
   * capabilities, which the copy has too.
   */
  copy(
    file: RpmFile,
    from: RpmPackage,
    source: number,
    target: number,
    name: Buffer | string,
  ): Buffer | undefined {
    const time = BigInt(file.mtime) * NANOSECONDS;
    const times = { atimeNs: time, mtimeNs: time };
    if (file.type === 'symlink') {
      symlinkat(encodeName(file.linkTarget ?? ''), target, name);
      setTimes(target, times, name);
      return undefined;
    }
    const inode = `${from.name} ${from.arch} ${file.device} ${file.inode}`;
    const twin = file.nlink > 1 ? this.#copies.get(inode) : undefined;
    if (twin !== undefined) {
      linkat(twin.directory, twin.name, target, name);
      return twin.capability;
    }
    const capability = copyFile(source, target, name, file, times);
    if (file.nlink > 1) {
      const directory = openDirectory(target, '.');
      this.#kept.push(directory);
      this.#copies.set(inode, { directory, name, capability });
    }
    return capability;
  }

  close(): void {
    for (const directory of this.#kept) closeSync(directory);
  }
}

/** Returns the file's capabilities, which the copy has too. */
function copyFile(
  source: number,
  target: number,
  name: Buffer | string,
  file: RpmFile,
  times: FileTimes,
): Buffer | undefined {
  const input = openat2(source, name, { flags: constants.O_RDONLY | constants.O_NOFOLLOW });
  try {
    const output = openat2(target, name, {
      flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
      mode: 0o600,
    });
    try {
      // Shares the blocks where the file system can (btrfs, xfs), else copies them.
      copyFileSync(`/proc/self/fd/${input}`, `/proc/self/fd/${output}`, constants.COPYFILE_FICLONE);
      fchmodSync(output, file.mode & PERMISSIONS & ~SET_ID_BITS);
      const capability = getXattr(input, 'security.capability');
      if (capability !== undefined) setXattr(output, 'security.capability', capability);
      setTimes(output, times);
      return capability;
    } finally {
      closeSync(output);
    }
  } finally {
    closeSync(input);
  }
}
