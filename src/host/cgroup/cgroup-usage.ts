/**
 * What the processes of a cgroup have used, on v1 and v2.
 * Sources: the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2, proc_pid_io(5).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What has been used; undefined where the kernel does not tell. */
export interface CgroupUsage {
  readonly cpuMicroseconds?: number;
  readonly cpuUserMicroseconds?: number;
  readonly cpuSystemMicroseconds?: number;
  /** At this moment. */
  readonly memoryBytes?: number;
  readonly peakMemoryBytes?: number;
  /** How often the kernel killed because of the memory limit. */
  readonly oomKills?: number;
  readonly peakPids?: number;
  /** How often a fork was refused because of the pids limit. */
  readonly pidsRefused?: number;
  readonly readBytes?: number;
  readonly writtenBytes?: number;
}

/** The directories of a process's groups; undefined where the host has no such controller. */
export interface UsageGroups {
  readonly version: 1 | 2;
  /** On v2 this one group tells everything but pids. */
  readonly memory: string | undefined;
  readonly cpuacct: string | undefined;
  readonly pids: string | undefined;
}

/** Reads all accounts there are, now. */
export function readUsage(groups: UsageGroups): CgroupUsage {
  const usage =
    groups.version === 2 && groups.memory !== undefined
      ? usageV2(groups.memory)
      : usageV1(groups.memory, groups.cpuacct);
  const all = {
    ...usage,
    peakPids: scaled(read(groups.pids, 'pids.peak'), 1),
    pidsRefused: word(read(groups.pids, 'pids.events'), 'max'),
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
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

/** The text of a kernel file; undefined if there is none. */
export function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function scaled(text: string | undefined, factor: number): number | undefined {
  const value = Number(text);
  return text === undefined || Number.isNaN(value) ? undefined : Math.round(value * factor);
}

/** The number after `name` in text of lines `name number`. */
function word(text: string | undefined, name: string): number | undefined {
  const lines = `\n${text ?? ''}`;
  const at = lines.indexOf(`\n${name} `);
  return at === -1 ? undefined : Number.parseInt(lines.slice(at + name.length + 2), 10);
}

/**
 * What living processes, and their reaped children, read from and wrote to block devices. v1's own account,
 * blkio.throttle.io_service_bytes, stays 0 unless the disk is throttled (measured on 6.18), and leaves out
 * buffered writes.
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
