/**
 * Limits of what processes read from and write to disks, as a cgroup's files have them. Sources: the
 * kernel's admin-guide/cgroup-v2 (io.max) and admin-guide/cgroup-v1/blkio-controller.
 */
import { existsSync, readFileSync, statfsSync, statSync } from 'node:fs';

/** What may be read from and written to one disk; undefined is no limit. Bytes per second. */
export interface IoLimit {
  /** `MAJOR:MINOR` of a whole disk. */
  readonly device: string;
  readonly read?: number;
  readonly write?: number;
}

export interface CgroupLine {
  readonly file: string;
  readonly line: string;
}

/** v1's files and v2's keys of io.max. */
const V1_FILES = {
  read: 'blkio.throttle.read_bps_device',
  write: 'blkio.throttle.write_bps_device',
} as const;
const V2_FILE = 'io.max';
const V2_KEYS = { read: 'rbps', write: 'wbps' } as const;
const WAYS = ['read', 'write'] as const;

/** The file that tells whether a group can have such a limit. */
export function ioLimitFile(version: 1 | 2): string {
  return version === 2 ? V2_FILE : V1_FILES.write;
}

/** The lines that set a limit. Each line is for one disk; disks that are not named keep their limits. */
export function ioLimitLines(version: 1 | 2, limit: IoLimit): CgroupLine[] {
  const asked = WAYS.flatMap((way) => {
    const rate = limit[way];
    return rate === undefined ? [] : [{ way, rate }];
  });
  if (asked.length === 0) return [];
  if (version === 1) {
    return asked.map(({ way, rate }) => ({ file: V1_FILES[way], line: `${limit.device} ${rate}` }));
  }
  const keys = asked.map(({ way, rate }) => `${V2_KEYS[way]}=${rate}`);
  return [{ file: V2_FILE, line: [limit.device, ...keys].join(' ') }];
}

/** The limits in the text of a group's files; `read` gives that of one, undefined if there is none. */
export function parseIoLimits(
  version: 1 | 2,
  read: (file: string) => string | undefined,
): IoLimit[] {
  const found = new Map<string, IoLimit>();
  for (const way of WAYS) {
    const text = read(version === 2 ? V2_FILE : V1_FILES[way]) ?? '';
    const rate = version === 2 ? new RegExp(` ${V2_KEYS[way]}=(\\d+)( |$)`) : / (\d+)$/;
    for (const line of text.split('\n')) {
      const device = /^\d+:\d+(?= )/.exec(line)?.[0];
      const bytes = rate.exec(line)?.[1];
      if (device === undefined || bytes === undefined) continue;
      found.set(device, { ...(found.get(device) ?? { device }), [way]: Number(bytes) });
    }
  }
  return [...found.values()];
}

/*
 * Which disk the files of a path are on. Sources: makedev(3), statfs(2), the kernel's
 * Documentation/ABI/stable/sysfs-block.
 */

/** What is below a file system. */
export type Backing =
  | { readonly kind: 'disk' /** `MAJOR:MINOR` of the whole disk. */; readonly device: string }
  /** No disk: the files are in memory or made up by the kernel. */
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
  // The link leads into the folder of the partition; the parent folder is the disk's.
  return readFileSync(`${entry}/../dev`, 'utf8').trim();
}
