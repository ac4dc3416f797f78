/**
 * Limits and accounts of the cgroups a process is in, on v1, v2 and hybrid hosts.
 * Sources: cgroups(7), the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2.
 */
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../errors.ts';
import { type CgroupHierarchy, cgroupHierarchies } from './cgroup.ts';
import { hasErrno } from './libc.ts';

/** A controller that kiln limits or reads. `cpuacct` is v1's account of what `cpu` limits. */
type Controller = 'memory' | 'cpu' | 'cpuacct' | 'pids';

/** What a process and its kin may use; undefined is left as it is. */
export interface CgroupLimits {
  /** Bytes. */
  readonly memory?: number;
  /** Processors' worth of time. */
  readonly cpus?: number;
  /** Processes and threads. */
  readonly pids?: number;
}

/** What has been used; undefined where the kernel does not tell. */
export interface CgroupUsage {
  readonly cpuMicroseconds?: number;
  readonly cpuUserMicroseconds?: number;
  readonly cpuSystemMicroseconds?: number;
  readonly peakMemoryBytes?: number;
  /** How often the kernel killed because of the memory limit. */
  readonly oomKills?: number;
  readonly peakPids?: number;
  /** How often a fork was refused because of the pids limit. */
  readonly pidsRefused?: number;
  readonly readBytes?: number;
  readonly writtenBytes?: number;
}

/** The period of cpu bandwidth control, microseconds: the kernel's default. */
const CPU_PERIOD = 100_000;

/** The folder, in the v1 pids hierarchy, of groups that libvirt does not make. */
const PIDS_PARENT = 'kiln';

/** How long to wait for killed processes to leave a group, and how often to look. */
const REMOVE_MS = 2000;
const REMOVE_PAUSE_MS = 10;

/** The cgroups of one process, looked up once. */
export class ProcessCgroups {
  readonly #hierarchies: readonly CgroupHierarchy[];
  readonly #lines: readonly string[];

  private constructor(hierarchies: readonly CgroupHierarchy[], lines: readonly string[]) {
    this.#hierarchies = hierarchies;
    this.#lines = lines;
  }

  /** @throws the error of reading /proc/PID/cgroup when the process is gone */
  static async of(pid: number): Promise<ProcessCgroups> {
    const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
    return new ProcessCgroups(await cgroupHierarchies(), lines);
  }

  /**
   * Sets limits for the group of the process. On v1, where libvirt makes no group for pids, one is
   * made for `id` and the process moved into it: {@link removePidsGroup} it when all is over.
   * @throws KilnError E_LIMIT where one cannot be had
   */
  limit(pid: number, id: string, limits: CgroupLimits): void {
    if (limits.memory !== undefined) this.#limitMemory(limits.memory);
    if (limits.cpus !== undefined) this.#limitCpu(Math.round(limits.cpus * CPU_PERIOD));
    if (limits.pids !== undefined) this.#limitPids(pid, id, limits.pids);
  }

  usage(id: string): CgroupUsage {
    const pids = this.#pidsGroup(id) ?? this.#group('pids')?.path;
    const memory = this.#group('memory');
    const cpuacct = this.#group('cpuacct')?.path;
    const read = (path: string | undefined, name: string) =>
      path === undefined ? undefined : readText(join(path, name));
    const usage: { -readonly [Key in keyof CgroupUsage]: number | undefined } =
      memory?.version === 2
        ? this.#usageV2(memory.path)
        : {
            cpuMicroseconds: scaled(read(cpuacct, 'cpuacct.usage'), 1e-3),
            cpuUserMicroseconds: scaled(read(cpuacct, 'cpuacct.usage_user'), 1e-3),
            cpuSystemMicroseconds: scaled(read(cpuacct, 'cpuacct.usage_sys'), 1e-3),
            peakMemoryBytes: scaled(read(memory?.path, 'memory.max_usage_in_bytes'), 1),
            oomKills: word(read(memory?.path, 'memory.oom_control'), 'oom_kill'),
            ...ioOfProcesses(read(memory?.path, 'cgroup.procs')),
          };
    usage.peakPids = scaled(read(pids, 'pids.peak'), 1);
    usage.pidsRefused = word(read(pids, 'pids.events'), 'max');
    return Object.fromEntries(Object.entries(usage).filter(([, value]) => value !== undefined));
  }

  #usageV2(path: string) {
    const io = readText(join(path, 'io.stat')) ?? '';
    const cpu = readText(join(path, 'cpu.stat'));
    const sum = (key: string) =>
      [...io.matchAll(new RegExp(`${key}=(\\d+)`, 'g'))].reduce((n, m) => n + Number(m[1]), 0);
    return {
      cpuMicroseconds: word(cpu, 'usage_usec'),
      cpuUserMicroseconds: word(cpu, 'user_usec'),
      cpuSystemMicroseconds: word(cpu, 'system_usec'),
      peakMemoryBytes: scaled(readText(join(path, 'memory.peak')), 1),
      oomKills: word(readText(join(path, 'memory.events')), 'oom_kill'),
      readBytes: sum('rbytes'),
      writtenBytes: sum('wbytes'),
    };
  }

  #limitMemory(bytes: number): void {
    const group = this.#need('memory', 'memory.max', 'memory.limit_in_bytes');
    if (group.version === 2) {
      write(group.path, 'memory.max', bytes);
      // Else what does not fit goes to swap, and the limit is none.
      tryWrite(group.path, 'memory.swap.max', 0);
      tryWrite(group.path, 'memory.oom.group', 0);
      return;
    }
    write(group.path, 'memory.limit_in_bytes', bytes);
    tryWrite(group.path, 'memory.memsw.limit_in_bytes', bytes);
  }

  #limitCpu(quota: number): void {
    const group = this.#need('cpu', 'cpu.max', 'cpu.cfs_quota_us');
    if (group.version === 2) {
      write(group.path, 'cpu.max', `${quota} ${CPU_PERIOD}`);
      return;
    }
    write(group.path, 'cpu.cfs_period_us', CPU_PERIOD);
    write(group.path, 'cpu.cfs_quota_us', quota);
  }

  #limitPids(pid: number, id: string, count: number): void {
    const hierarchy = this.#hierarchy('pids');
    if (hierarchy?.version === 1) {
      const path = join(hierarchy.path, PIDS_PARENT, id);
      mkdirSync(path, { recursive: true });
      write(path, 'pids.max', count);
      write(path, 'cgroup.procs', pid);
      return;
    }
    write(this.#need('pids', 'pids.max', 'pids.max').path, 'pids.max', count);
  }

  #pidsGroup(id: string): string | undefined {
    const hierarchy = this.#hierarchy('pids');
    if (hierarchy?.version !== 1) return undefined;
    return join(hierarchy.path, PIDS_PARENT, id);
  }

  #hierarchy(controller: Controller): CgroupHierarchy | undefined {
    return this.#hierarchies.find(({ controllers }) => controllers.includes(controller));
  }

  #group(controller: Controller): { version: 1 | 2; path: string } | undefined {
    const hierarchy = this.#hierarchy(controller);
    if (hierarchy === undefined) return undefined;
    for (const line of this.#lines) {
      const [, names = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
      const mine = hierarchy.version === 2 ? names === '' : names.split(',').includes(controller);
      if (mine) return { version: hierarchy.version, path: join(hierarchy.path, path) };
    }
    return undefined;
  }

  /**
   * The nearest group, from the process's own up, that has the controller's file: a leaf on v2 may
   * lack the controller that its parent, the domain's group, has.
   */
  #need(controller: Controller, v2File: string, v1File: string): { version: 1 | 2; path: string } {
    const group = this.#group(controller);
    if (group !== undefined) {
      const file = group.version === 2 ? v2File : v1File;
      for (const path of [group.path, dirname(group.path)]) {
        if (readText(join(path, file)) !== undefined) return { version: group.version, path };
      }
    }
    throw new KilnError(
      'E_LIMIT',
      `no ${controller} limit can be set: the box has no such cgroup`,
      {
        hint: '`kiln doctor` shows which controllers this host has',
        details: { controller },
      },
    );
  }
}

/** Removes the pids group that a limit made; fine when there is none. Its processes must be dying. */
export async function removePidsGroup(id: string): Promise<void> {
  for (const { path, version, controllers } of await cgroupHierarchies()) {
    if (version !== 1 || !controllers.includes('pids')) continue;
    await removeGroup(join(path, PIDS_PARENT, id));
  }
}

/** A group is busy until the last of its killed processes has left. */
async function removeGroup(path: string): Promise<void> {
  for (let left = REMOVE_MS; ; left -= REMOVE_PAUSE_MS) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return;
      if (!hasErrno(error, 'EBUSY') || left <= 0) throw error;
      await sleep(REMOVE_PAUSE_MS);
    }
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function write(directory: string, name: string, value: number | string): void {
  try {
    writeFileSync(join(directory, name), String(value));
  } catch (cause) {
    throw new KilnError('E_LIMIT', `${name} cannot be set to ${value}`, { cause });
  }
}

function tryWrite(directory: string, name: string, value: number): void {
  try {
    writeFileSync(join(directory, name), String(value));
  } catch {
    // Not every kernel has it: no swap accounting, for one.
  }
}

function scaled(text: string | undefined, factor: number): number | undefined {
  const value = Number(text);
  return text === undefined || Number.isNaN(value) ? undefined : Math.round(value * factor);
}

/** The number after `name` in text of lines `name number`. */
function word(text: string | undefined, name: string): number | undefined {
  const match = new RegExp(`^${name} (\\d+)$`, 'm').exec(text ?? '');
  return match === null ? undefined : Number(match[1]);
}

/**
 * What living processes, and their dead and reaped children, read from and wrote to block devices.
 * v1's own account, blkio.throttle.io_service_bytes, stays 0 (measured on 6.18) as long as
 * nobody throttles the disk, and does not know of buffered writes.
 */
function ioOfProcesses(pids: string | undefined) {
  let told = false;
  const io = { readBytes: 0, writtenBytes: 0 };
  for (const pid of pids?.split('\n') ?? []) {
    const text = readText(`/proc/${pid}/io`)?.replaceAll(':', '');
    const read = word(text, 'read_bytes');
    if (pid === '' || read === undefined) continue;
    told = true;
    io.readBytes += read;
    io.writtenBytes += word(text, 'write_bytes') ?? 0;
  }
  return told ? io : {};
}
