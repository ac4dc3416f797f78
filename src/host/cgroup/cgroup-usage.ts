/** What a cgroup has used, on v1 and v2. Sources: the kernel's admin-guide, proc_pid_io(5). */
import { existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../../defined.ts';
import { readText } from '../calls/libc.ts';

export interface CgroupUsage {
  readonly cpuMicroseconds?: number;
  readonly cpuUserMicroseconds?: number;
  readonly cpuSystemMicroseconds?: number;
  readonly memoryBytes?: number;
  readonly peakMemoryBytes?: number;
  readonly oomKills?: number;
  readonly peakPids?: number;
  readonly pidsRefused?: number;
  readonly readBytes?: number;
  readonly writtenBytes?: number;
}

export interface UsageGroups {
  readonly version: 1 | 2;
  readonly memory: string | undefined;
  readonly cpuacct: string | undefined;
  readonly pids: string | undefined;
}

export function readUsage(groups: UsageGroups): CgroupUsage {
  const usage =
    groups.version === 2 && groups.memory !== undefined
      ? usageV2(groups.memory)
      : usageV1(groups.memory, groups.cpuacct);
  return defined({
    ...usage,
    peakPids: scaled(read(groups.pids, 'pids.peak'), 1),
    pidsRefused: word(read(groups.pids, 'pids.events'), 'max'),
  });
}

function usageV1(memory: string | undefined, cpuacct: string | undefined) {
  return {
    cpuMicroseconds: scaled(read(cpuacct, 'cpuacct.usage'), 1e-3),
    cpuUserMicroseconds: scaled(read(cpuacct, 'cpuacct.usage_user'), 1e-3),
    cpuSystemMicroseconds: scaled(read(cpuacct, 'cpuacct.usage_sys'), 1e-3),
    memoryBytes: scaled(read(memory, 'memory.usage_in_bytes'), 1),
    peakMemoryBytes: scaled(read(memory, 'memory.max_usage_in_bytes'), 1),
    oomKills: word(read(memory, 'memory.oom_control'), 'oom_kill'),
    ...ioOfProcesses(read(memory, 'cgroup.procs')),
  };
}

function usageV2(path: string) {
  const io = read(path, 'io.stat') ?? '';
  const cpu = read(path, 'cpu.stat');
  const sum = (key: string) =>
    [...io.matchAll(new RegExp(`${key}=(\\d+)`, 'g'))].reduce((n, m) => n + Number(m[1]), 0);
  return {
    cpuMicroseconds: word(cpu, 'usage_usec'),
    cpuUserMicroseconds: word(cpu, 'user_usec'),
    cpuSystemMicroseconds: word(cpu, 'system_usec'),
    memoryBytes: scaled(read(path, 'memory.current'), 1),
    peakMemoryBytes: scaled(read(path, 'memory.peak'), 1),
    oomKills: word(read(path, 'memory.events'), 'oom_kill'),
    readBytes: sum('rbytes'),
    writtenBytes: sum('wbytes'),
  };
}

function read(directory: string | undefined, name: string): string | undefined {
  return directory === undefined ? undefined : readText(join(directory, name));
}

function scaled(text: string | undefined, factor: number): number | undefined {
  const value = Number(text);
  return text === undefined || Number.isNaN(value) ? undefined : Math.round(value * factor);
}

export function word(text: string | undefined, name: string): number | undefined {
  const lines = `\n${text ?? ''}`;
  const at = lines.indexOf(`\n${name} `);
  return at === -1 ? undefined : Number.parseInt(lines.slice(at + name.length + 2), 10);
}

/**
 * What living processes and their reaped children read and wrote. v1's blkio.throttle.io_service_bytes stays 0
 * unless the disk is throttled (measured on 6.18), and leaves out buffered writes.
 */
function ioOfProcesses(pids: string | undefined) {
  let told = false;
  const io = { readBytes: 0, writtenBytes: 0 };
  for (const pid of pids?.trimEnd().split('\n') ?? []) {
    const text = readText(`/proc/${pid}/io`)?.replaceAll(':', '');
    const read = word(text, 'read_bytes');
    if (read === undefined) continue;
    told = true;
    io.readBytes += read;
    io.writtenBytes += word(text, 'write_bytes') ?? 0;
  }
  return told ? io : {};
}

/* Limits of disks. Sources: the kernel's admin-guide/cgroup-v2 (io.max), cgroup-v1/blkio-controller. */

/** Bytes per second, of one disk; undefined is no limit. */
export interface IoLimit {
  readonly device: string;
  readonly read?: number | undefined;
  readonly write?: number | undefined;
}

const V1_FILES = {
  read: 'blkio.throttle.read_bps_device',
  write: 'blkio.throttle.write_bps_device',
} as const;
const V2_FILE = 'io.max';
const V2_KEYS = { read: 'rbps', write: 'wbps' } as const;
const WAYS = ['read', 'write'] as const;

export function ioLimitFile(version: 1 | 2): string {
  return version === 2 ? V2_FILE : V1_FILES.write;
}

export function ioLimitLines(version: 1 | 2, limit: IoLimit) {
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

/* Sources: makedev(3), statfs(2), the kernel's Documentation/ABI/stable/sysfs-block. */

export type Backing =
  | { readonly kind: 'disk'; readonly device: string }
  | { readonly kind: 'memory' }
  /** An anonymous device: disks or a server are below it, and stat(2) does not tell which. */
  | { readonly kind: 'hidden'; readonly fileSystem: string };

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

export function backingOf(path: string): Backing {
  const { dev } = statSync(path, { bigint: true });
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
  const minor = (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
  if (major !== 0n) return { kind: 'disk', device: wholeDisk(`${major}:${minor}`) };
  const { type } = statfsSync(path);
  if (IN_MEMORY.has(type)) return { kind: 'memory' };
  return { kind: 'hidden', fileSystem: NAMES.get(type) ?? `type 0x${type.toString(16)}` };
}

function wholeDisk(device: string): string {
  const entry = `/sys/dev/block/${device}`;
  if (!existsSync(`${entry}/partition`)) return device;
  return readFileSync(`${entry}/../dev`, 'utf8').trim();
}
