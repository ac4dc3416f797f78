import {
  type BigIntStats,
  constants,
  type Dirent,
  fchmodSync,
  fchownSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
} from 'node:fs';
import {
  closing,
  copySparse,
  getXattr,
  listXattrs,
  setXattr,
} from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { checked, tryCall } from '../../host/calls/system-call.ts';
import {
  AT_FDCWD,
  lchownat,
  linkat,
  mkdirat,
  NEW_FILE,
  openat2,
  openDirectory,
  openPath,
  readlinkat,
  setTimes,
  symlinkat,
} from '../../host/files/at.ts';
import { checkTreeDepth } from '../../host/files/tree-usage.ts';

/** ioctl_ficlone(2): _IOW(0x94, 9, int). */
const FICLONE = 0x40049409;

/** Directories are new, everything else is a hard link (or a copy, if an inode has the most links it can have). */
export function cloneTree(source: string, destination: string): void {
  makeTree(source, destination, linkEntry);
}

/**
 * Shares no inode with `source` (but blocks, where the file system can). Sockets, fifos and devices are left
 * out. Nobody may change `source` meanwhile.
 * @throws KilnError E_TREE_DEPTH
 */
export function copyTree(source: string, destination: string): void {
  makeTree(source, destination, copyEntry);
}

type MakeEntry = (from: number, to: number, name: Buffer, entry: Dirent<Buffer>) => void;

function makeTree(source: string, destination: string, make: MakeEntry): void {
  mkdirSync(destination, { mode: 0o700 });
  using from = closing(openDirectory(AT_FDCWD, source));
  using to = closing(openDirectory(AT_FDCWD, destination));
  makeDirectory(from.fd, to.fd, make, 0);
}

function makeDirectory(from: number, to: number, make: MakeEntry, depth: number): void {
  checkTreeDepth(depth);
  const entries = readdirSync(`/proc/self/fd/${from}`, { encoding: 'buffer', withFileTypes: true });
  for (const entry of entries) {
    const name = entry.name;
    if (entry.isDirectory()) {
      mkdirat(to, name, 0o700);
      using inner = closing(openDirectory(from, name));
      using made = closing(openDirectory(to, name));
      makeDirectory(inner.fd, made.fd, make, depth + 1);
    } else {
      make(from, to, name, entry);
    }
  }
  copyMetadata(from, to, fstatSync(from, { bigint: true }));
}

function linkEntry(from: number, to: number, name: Buffer, entry: Dirent<Buffer>): void {
  try {
    linkat(from, name, to, name);
  } catch (error) {
    if (!hasErrno(error, 'EMLINK')) throw error;
    copyEntry(from, to, name, entry);
  }
}

function copyEntry(from: number, to: number, name: Buffer, entry: Dirent<Buffer>): void {
  if (entry.isSymbolicLink()) copyLink(from, to, name);
  else if (entry.isFile()) copyPlainFile(from, to, name);
}

export function copyEntryAt(from: number, name: Buffer, to: number, as: Buffer): void {
  using entry = closing(openPath(from, name));
  const stat = fstatSync(entry.fd);
  if (stat.isSymbolicLink()) copyLink(from, to, name, as);
  else if (stat.isFile()) copyPlainFile(from, to, name, as);
}

/** Owner, permissions, extended attributes and times. */
function copyMetadata(from: number, to: number, stat: BigIntStats): void {
  fchownSync(to, Number(stat.uid), Number(stat.gid));
  fchmodSync(to, Number(stat.mode) & 0o7777);
  for (const name of listXattrs(from)) {
    setXattr(to, name, getXattr(from, name) ?? Buffer.alloc(0));
  }
  setTimes(to, stat);
}

function copyLink(from: number, to: number, name: Buffer, as: Buffer = name): void {
  using entry = closing(openPath(from, name));
  const stat = fstatSync(entry.fd, { bigint: true });
  symlinkat(readlinkat(from, name), to, as);
  lchownat(to, as, Number(stat.uid), Number(stat.gid));
  setTimes(to, stat, as);
}

function copyPlainFile(from: number, to: number, name: Buffer, as: Buffer = name): void {
  using input = closing(openat2(from, name, { flags: constants.O_RDONLY | constants.O_NOFOLLOW }));
  using output = closing(openat2(to, as, NEW_FILE));
  const stat = fstatSync(input.fd, { bigint: true });
  copyContent(input.fd, output.fd);
  copyMetadata(input.fd, output.fd, stat);
}

function copyContent(from: number, to: number): void {
  try {
    checked('ioctl', tryCall('ioctl', to, FICLONE, from));
  } catch (error) {
    if (!hasErrno(error, 'EOPNOTSUPP', 'ENOTTY', 'EXDEV', 'EINVAL', 'EPERM', 'ENOSYS')) throw error;
    copySparse(from, to);
  }
}

export function copyFile(source: string, destination: string): void {
  using from = closing(openSync(source, constants.O_RDONLY));
  using to = closing(openat2(AT_FDCWD, destination, NEW_FILE));
  copyContent(from.fd, to.fd);
}
