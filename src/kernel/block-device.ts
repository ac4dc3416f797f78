/**
 * Which disk the files of a path are on. Sources: makedev(3), statfs(2), the kernel's
 * Documentation/ABI/stable/sysfs-block.
 */
import { existsSync, readFileSync, statfsSync, statSync } from 'node:fs';

/** What is below a file system. */
export type Backing =
  | { readonly kind: 'disk' /** `MAJOR:MINOR` of the whole disk. */; readonly device: string }
  /** Nothing: its files are in memory, or made up by the kernel. */
  | { readonly kind: 'memory' }
  /** An anonymous device: disks or a server are below it, and stat(2) does not tell which. */
  | { readonly kind: 'hidden' /** `btrfs`, `overlay`, … */; readonly fileSystem: string };

/** f_type of statfs(2), as linux/magic.h has them. */
const IN_MEMORY = new Set([
  0x01021994, // tmpfs
  0x858458f6, // ramfs
  0x958458f6, // hugetlbfs
  0x9fa0, // proc
  0x62656572, // sysfs
  0x27e0eb, // cgroup
  0x63677270, // cgroup2
]);
const NAMES = new Map([
  [0x9123683e, 'btrfs'],
  [0x794c7630, 'overlay'],
  [0x2fc12fc1, 'zfs'],
  [0xca451a4e, 'bcachefs'],
  [0x6969, 'nfs'],
  [0xff534d42, 'cifs'],
  [0x01021997, '9p'],
  [0x65735546, 'fuse or virtiofs'],
]);

/** What a path that exists lies on. @throws the error of stat(2) */
export function backingOf(path: string): Backing {
  const { dev } = statSync(path, { bigint: true });
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  if (major !== 0n) return { kind: 'disk', device: wholeDisk(`${major}:${minor}`) };
  const { type } = statfsSync(path);
  if (IN_MEMORY.has(type)) return { kind: 'memory' };
  return { kind: 'hidden', fileSystem: NAMES.get(type) ?? `type 0x${type.toString(16)}` };
}

/** The disk that a partition is of: the kernel limits whole disks only. */
function wholeDisk(device: string): string {
  const entry = `/sys/dev/block/${device}`;
  if (!existsSync(`${entry}/partition`)) return device;
  // The link leads into the disk's own folder: its parent is the disk.
  return readFileSync(`${entry}/../dev`, 'utf8').trim();
}
