import {
  closeSync,
  constants,
  copyFileSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
} from 'node:fs';
import {
  lchownat,
  linkat,
  mkdirat,
  openat2,
  openDirectory,
  openPath,
  readlinkat,
  setTimes,
  symlinkat,
} from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';
import { getXattr, listXattrs, setXattr } from '../../kernel/xattr.ts';

/**
 * Makes `destination` a tree of its own with the same files as `source`: directories are new, all
 * else are hard links (or copies, where an inode has as many links as it may have).
 */
export function cloneTree(source: string, destination: string): void {
  mkdirSync(destination, { mode: 0o700 });
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
  const from = openSync(source, flags);
  try {
    const to = openSync(destination, flags);
    try {
      cloneDirectory(from, to);
    } finally {
      closeSync(to);
    }
  } finally {
    closeSync(from);
  }
}

function cloneDirectory(from: number, to: number): void {
  const entries = readdirSync(`/proc/self/fd/${from}`, { encoding: 'buffer', withFileTypes: true });
  for (const entry of entries) {
    const name = entry.name;
    if (entry.isDirectory()) {
      mkdirat(to, name, 0o700);
      const inner = openDirectory(from, name);
      try {
        const made = openDirectory(to, name);
        try {
          cloneDirectory(inner, made);
        } finally {
          closeSync(made);
        }
      } finally {
        closeSync(inner);
      }
      continue;
    }
    try {
      linkat(from, name, to, name);
    } catch (error) {
      if (!hasErrno(error, 'EMLINK')) throw error;
      if (entry.isSymbolicLink()) copyLink(from, to, name);
      else copyPlainFile(from, to, name);
    }
  }
  copyDirectoryMetadata(from, to);
}

function copyDirectoryMetadata(from: number, to: number): void {
  const stat = fstatSync(from, { bigint: true });
  fchownSync(to, Number(stat.uid), Number(stat.gid));
  fchmodSync(to, Number(stat.mode) & 0o7777);
  copyXattrs(from, to);
  setTimes(to, stat);
}

function copyLink(from: number, to: number, name: Buffer): void {
  const entry = openPath(from, name);
  try {
    const stat = fstatSync(entry, { bigint: true });
    symlinkat(readlinkat(from, name), to, name);
    lchownat(to, name, Number(stat.uid), Number(stat.gid));
    setTimes(to, stat, name);
  } finally {
    closeSync(entry);
  }
}

function copyPlainFile(from: number, to: number, name: Buffer): void {
  const input = openat2(from, name, { flags: constants.O_RDONLY | constants.O_NOFOLLOW });
  try {
    const output = openat2(to, name, {
      flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
      mode: 0o600,
    });
    try {
      const stat = fstatSync(input, { bigint: true });
      copyFileSync(`/proc/self/fd/${input}`, `/proc/self/fd/${output}`, constants.COPYFILE_FICLONE);
      fchownSync(output, Number(stat.uid), Number(stat.gid));
      fchmodSync(output, Number(stat.mode) & 0o7777);
      copyXattrs(input, output);
      setTimes(output, stat);
    } finally {
      closeSync(output);
    }
  } finally {
    closeSync(input);
  }
}

function copyXattrs(from: number, to: number): void {
  for (const name of listXattrs(from)) {
    setXattr(to, name, getXattr(from, name) ?? Buffer.alloc(0));
  }
}
