import {
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
  lchownat,
  linkat,
  mkdirat,
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
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
  const from = openSync(source, flags);
  using _from = closing(from);
  const to = openSync(destination, flags);
  using _to = closing(to);
  makeDirectory(from, to, make, 0);
}

function makeDirectory(from: number, to: number, make: MakeEntry, depth: number): void {
  checkTreeDepth(depth);
  const entries = readdirSync(`/proc/self/fd/${from}`, { encoding: 'buffer', withFileTypes: true });
  for (const entry of entries) {
    const name = entry.name;
    if (entry.isDirectory()) {
      mkdirat(to, name, 0o700);
      const inner = openDirectory(from, name);
      using _inner = closing(inner);
      const made = openDirectory(to, name);
      using _made = closing(made);
      makeDirectory(inner, made, make, depth + 1);
    } else {
      make(from, to, name, entry);
    }
  }
  copyDirectoryMetadata(from, to);
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
  const entry = openPath(from, name);
  using _entry = closing(entry);
  const stat = fstatSync(entry);
  if (stat.isSymbolicLink()) copyLink(from, to, name, as);
  else if (stat.isFile()) copyPlainFile(from, to, name, as);
}

function copyDirectoryMetadata(from: number, to: number): void {
  const stat = fstatSync(from, { bigint: true });
  fchownSync(to, Number(stat.uid), Number(stat.gid));
  fchmodSync(to, Number(stat.mode) & 0o7777);
  copyXattrs(from, to);
  setTimes(to, stat);
}

function copyLink(from: number, to: number, name: Buffer, as: Buffer = name): void {
  const entry = openPath(from, name);
  using _entry = closing(entry);
  const stat = fstatSync(entry, { bigint: true });
  symlinkat(readlinkat(from, name), to, as);
  lchownat(to, as, Number(stat.uid), Number(stat.gid));
  setTimes(to, stat, as);
}

function copyPlainFile(from: number, to: number, name: Buffer, as: Buffer = name): void {
  const input = openat2(from, name, { flags: constants.O_RDONLY | constants.O_NOFOLLOW });
  using _input = closing(input);
  const output = openat2(to, as, {
    flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
    mode: 0o600,
  });
  using _output = closing(output);
  const stat = fstatSync(input, { bigint: true });
  copyContent(input, output);
  fchownSync(output, Number(stat.uid), Number(stat.gid));
  fchmodSync(output, Number(stat.mode) & 0o7777);
  copyXattrs(input, output);
  setTimes(output, stat);
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
  const from = openSync(source, constants.O_RDONLY);
  using _from = closing(from);
  const to = openSync(
    destination,
    constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
    0o600,
  );
  using _to = closing(to);
  copyContent(from, to);
}

function copyXattrs(from: number, to: number): void {
  for (const name of listXattrs(from)) {
    setXattr(to, name, getXattr(from, name) ?? Buffer.alloc(0));
  }
}
