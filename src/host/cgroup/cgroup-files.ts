/** The cgroups of a process, on v1, v2 and hybrid hosts. Source: cgroups(7), the kernel's admin-guide. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { writeFile as writeFileInThread } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno, readText, unlessErrno } from '../calls/libc.ts';
import { statOf } from '../process/process.ts';
import {
  type CgroupHierarchy,
  DELEGATED_GROUP,
  kilnGroup,
  knownHierarchies,
  makePidsGroup,
  pathOfGroup,
  processesBelow,
} from './cgroup.ts';
import {
  type CgroupUsage,
  type IoLimit,
  ioLimitFile,
  ioLimitLines,
  parseIoLimits,
  readUsage,
  word,
} from './cgroup-usage.ts';

type Controller = 'memory' | 'cpu' | 'cpuacct' | 'pids' | 'io' | 'blkio';

export interface CgroupLimits {
  readonly memory?: number;
  /** Processors' worth of time. */
  readonly cpus?: number;
  readonly pids?: number;
  readonly io?: IoLimit[];
}

/** The part of a memory limit that v1 allows for the buffers of sockets, beside the limit. */
const SOCKET_SHARE = 1 / 4;

/** The kernel's default for cpu bandwidth control, microseconds. */
const CPU_PERIOD = 100_000;

interface Group {
  readonly version: 1 | 2;
  readonly path: string;
}

/** A file of a controller, as v2 and v1 call it. */
type Names = readonly [v2: string, v1: string];

const MEMORY: Names = ['memory.max', 'memory.limit_in_bytes'];
/** Of v1 alone: TCP's and UDP's buffers, which v2 counts with all other memory. */
const SOCKET_MEMORY = 'memory.kmem.tcp.limit_in_bytes';
const MEMORY_NOW: Names = ['memory.current', 'memory.usage_in_bytes'];
const CPU: Names = ['cpu.max', 'cpu.cfs_quota_us'];
const PIDS: Names = ['pids.max', 'pids.max'];
const IO: Names = [ioLimitFile(2), ioLimitFile(1)];

export class ProcessCgroups {
  readonly #hierarchies: readonly CgroupHierarchy[];
  readonly #lines: readonly string[];
  readonly #groups = new Map<Controller, Group | undefined>();

  private constructor(hierarchies: readonly CgroupHierarchy[], lines: readonly string[]) {
    this.#hierarchies = hierarchies;
    this.#lines = lines;
  }

  static of(pid: number): ProcessCgroups {
    const text = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim();
    const lines = text.split('\n').map(accountedGroup);
    return new ProcessCgroups(knownHierarchies(), lines);
  }

  /**
   * Makes the next moves of other processes quick, by moving this one to the cgroup that it is in. The kernel waits
   * 5 to 20 ms for all processors before it moves a process, but not for as long after a move. Source: the kernel's
   * cgroup_attach_lock() and rcu_sync_enter(). Rejects where this process may not; only that time is lost.
   */
  static async primeMove(): Promise<void> {
    const own = ProcessCgroups.of(process.pid);
    const group = own.#group('pids') ?? own.#group('memory');
    if (group === undefined) return;
    await writeFileInThread(join(group.path, 'cgroup.procs'), String(process.pid));
  }

  /** Moves another process to the groups of this one. On a hybrid host the unified hierarchy is not libvirt's. */
  async adopt(pid: number): Promise<void> {
    const groups = this.#hierarchies.map((known) => this.#groupIn(known, known.controllers[0]));
    const legacy = groups.filter((group) => group?.version === 1);
    if (legacy.length === 0) {
      const [unified] = groups;
      if (unified !== undefined)
        await writeFileInThread(join(unified.path, 'cgroup.procs'), `${pid}`);
      return;
    }
    // Thread by thread, which the kernel does at once; for all of them it waits for all processors. One may be over.
    const threads = readdirSync(`/proc/${pid}/task`);
    for (const group of legacy) {
      const tasks = join(group?.path ?? '', 'tasks');
      for (const thread of threads) unlessErrno(['ESRCH'], () => writeFileSync(tasks, thread));
    }
  }

  /**
   * Makes the pids group `name` ahead of time on v1 and moves the process into it. That takes ten
   * milliseconds, because the kernel waits for all processors; this thread can do other work meanwhile. @throws
   * KilnError E_LIMIT
   */
  async prepare(pid: number, name: string): Promise<void> {
    const path = this.#newPidsGroup(name);
    if (path === undefined) return;
    const file = join(path, 'cgroup.procs');
    await writeFileInThread(file, String(pid)).catch((cause) => {
      throw limitError('cgroup.procs', pid, cause);
    });
  }

  /**
   * Sets limits. libvirt makes no pids group on v1, so kiln makes one, `name`, and moves the process into it;
   * removeOwnCgroups() removes it. @throws KilnError E_LIMIT
   */
  limit(pid: number, name: string, limits: CgroupLimits): void {
    if (limits.memory !== undefined) this.#limitMemory(limits.memory);
    if (limits.cpus !== undefined) this.#limitCpu(Math.round(limits.cpus * CPU_PERIOD));
    if (limits.pids !== undefined) this.#limitPids(pid, name, limits.pids);
    for (const limit of limits.io ?? []) this.#limitIo(limit);
  }

  /** On v1, for sockets that are made from now on; the memory limit must be set before. @throws KilnError E_LIMIT */
  limitSockets(): void {
    const group = this.#need('memory', MEMORY);
    if (group.version === 2) return;
    const bytes = this.#number('memory', MEMORY);
    write(group.path, SOCKET_MEMORY, Math.floor(bytes * SOCKET_SHARE));
  }

  usage(name: string): CgroupUsage {
    const memory = this.#group('memory');
    return readUsage({
      version: memory?.version ?? 1,
      memory: memory?.path,
      cpuacct: this.#group('cpuacct')?.path,
      pids: this.#pidsGroup(name) ?? this.#nearest('pids', ['pids.events', 'pids.events'])?.path,
    });
  }

  limits(name: string): CgroupLimits {
    const text = (group: Group | undefined, name: string) =>
      group === undefined ? undefined : readText(join(group.path, name))?.trim();
    const cpu = this.#nearest('cpu', CPU);
    const pids = this.#pidsGroup(name) ?? this.#nearest('pids', PIDS)?.path;
    const bytes = this.#number('memory', MEMORY);
    const [quota, period] =
      cpu?.version === 2
        ? (text(cpu, 'cpu.max') ?? '').split(' ').map(Number)
        : [Number(text(cpu, 'cpu.cfs_quota_us')), Number(text(cpu, 'cpu.cfs_period_us'))];
    const most = Number(pids === undefined ? undefined : readText(join(pids, 'pids.max')));
    const share = (quota ?? 0) / (period ?? 0);
    const io = this.#nearest(this.#ioController(), IO);
    const disks = io === undefined ? [] : parseIoLimits(io.version, (file) => text(io, file));
    return {
      // v1 shows the largest possible number of pages where there is no limit.
      ...(bytes > 0 && bytes < 2 ** 60 ? { memory: bytes } : {}),
      ...(share > 0 && Number.isFinite(share) ? { cpus: share } : {}),
      ...(most > 0 ? { pids: most } : {}),
      ...(disks.length > 0 ? { io: disks } : {}),
    };
  }

  /** All processes of the group and of those below, which a system that boots makes, and others may. */
  processes(): number[] {
    const group = this.#group('memory') ?? this.#group('pids');
    return group === undefined ? [] : processesBelow(group.path);
  }

  memoryBytes(): number | undefined {
    const bytes = this.#number('memory', MEMORY_NOW);
    return Number.isNaN(bytes) ? undefined : bytes;
  }

  #number(controller: Controller, names: Names): number {
    const group = this.#nearest(controller, names);
    return Number(group && readText(join(group.path, nameIn(group, names))));
  }

  /** Files in tmpfs file systems, and other shared memory, of the group and those below. */
  sharedBytes(): number | undefined {
    const group = this.#nearest('memory', ['memory.stat', 'memory.stat']);
    if (group === undefined) return undefined;
    const text = readText(join(group.path, 'memory.stat'));
    return word(text, group.version === 2 ? 'shmem' : 'total_shmem');
  }

  #limitMemory(bytes: number): void {
    const group = this.#need('memory', MEMORY);
    if (group.version === 2) {
      write(group.path, 'memory.max', bytes);
      // Without this, memory beyond the limit would go to swap.
      tryWrite(group.path, 'memory.swap.max', 0);
      tryWrite(group.path, 'memory.oom.group', 0);
      return;
    }
    // The limit of memory plus swap must never be the lower one: raise it first, lower it last.
    tryWrite(group.path, 'memory.memsw.limit_in_bytes', bytes);
    write(group.path, 'memory.limit_in_bytes', bytes);
    tryWrite(group.path, 'memory.memsw.limit_in_bytes', bytes);
  }

  #limitCpu(quota: number): void {
    const group = this.#need('cpu', CPU);
    if (group.version === 2) {
      write(group.path, 'cpu.max', `${quota} ${CPU_PERIOD}`);
      return;
    }
    write(group.path, 'cpu.cfs_period_us', CPU_PERIOD);
    write(group.path, 'cpu.cfs_quota_us', quota);
  }

  #limitPids(pid: number, name: string, count: number): void {
    const own = this.#pidsGroup(name);
    if (own !== undefined) {
      const path = this.#newPidsGroup(name);
      if (path !== undefined) write(path, 'cgroup.procs', pid);
      write(own, 'pids.max', count);
      return;
    }
    const { path } = this.#need('pids', PIDS);
    write(path, 'pids.max', controllerThreads(pid) + count);
  }

  #limitIo(limit: IoLimit): void {
    const group = this.#need(this.#ioController(), IO);
    for (const { file, line } of ioLimitLines(group.version, limit)) write(group.path, file, line);
  }

  #ioController(): Controller {
    return this.#hierarchy('blkio') === undefined ? 'io' : 'blkio';
  }

  #newPidsGroup(name: string): string | undefined {
    const path = this.#pidsGroup(name);
    if (path === undefined || this.#group('pids')?.path === path) return undefined;
    makePidsGroup(path);
    return path;
  }

  #pidsGroup(name: string): string | undefined {
    const hierarchy = this.#hierarchy('pids');
    if (hierarchy?.version !== 1) return undefined;
    return kilnGroup(hierarchy.path, name);
  }

  #hierarchy(controller: Controller): CgroupHierarchy | undefined {
    return this.#hierarchies.find(({ controllers }) => controllers.includes(controller));
  }

  #group(controller: Controller): Group | undefined {
    if (!this.#groups.has(controller)) this.#groups.set(controller, this.#findGroup(controller));
    return this.#groups.get(controller);
  }

  #findGroup(controller: Controller): Group | undefined {
    const hierarchy = this.#hierarchy(controller);
    return hierarchy && this.#groupIn(hierarchy, controller);
  }

  #groupIn(hierarchy: CgroupHierarchy, controller: string | undefined): Group | undefined {
    const { version } = hierarchy;
    for (const line of this.#lines) {
      const [, names = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
      const isMeant = version === 2 ? names === '' : names.split(',').includes(controller ?? '');
      if (!isMeant) continue;
      const seen = pathOfGroup(hierarchy, path);
      return seen === undefined ? undefined : { version, path: seen };
    }
    return undefined;
  }

  /**
   * The nearest group, from the process's own upwards, with the controller's file. On v2 a leaf may lack a
   * controller that the domain's group has: systemd-machined's scope has `pids`, which libvirt does not pass
   * on.
   */
  #nearest(controller: Controller, names: Names): Group | undefined {
    const group = this.#group(controller);
    if (group === undefined) return undefined;
    const file = nameIn(group, names);
    const path = [group.path, dirname(group.path)].find((path) => existsSync(join(path, file)));
    return path === undefined ? undefined : { version: group.version, path };
  }

  #need(controller: Controller, names: Names): Group {
    const found = this.#nearest(controller, names);
    if (found !== undefined) return found;
    const what = `no ${controller} limit can be set: the sandbox has no such cgroup`;
    throw new KilnError('E_LIMIT', what, {
      hint: '`kiln doctor` shows which controllers this host has',
      details: { controller },
    });
  }
}

/** Of libvirt's controller, which started the init and is in its group; how many is up to its libraries. */
function controllerThreads(initPid: number): number {
  const controller = statOf(initPid)?.[1];
  return Number(statOf(Number(controller))?.[17] ?? 0);
}

/** libvirt gives a machine's threads groups of their own, below the machine's. */
const MACHINE_GROUP = /^(.*\/(?:qemu-[^/]+\.libvirt-qemu|machine-qemu[^/]+\.scope))\/.*$/;

/** The group with limits and accounts, of a line of /proc/PID/cgroup. The delegated group has no controllers. */
function accountedGroup(line: string): string {
  return (line.split(`/${DELEGATED_GROUP}`)[0] ?? '').replace(MACHINE_GROUP, '$1');
}

function nameIn({ version }: Group, [v2, v1]: Names): string {
  return version === 2 ? v2 : v1;
}

function write(directory: string, name: string, value: number | string): void {
  try {
    writeFileSync(join(directory, name), String(value));
  } catch (cause) {
    throw limitError(name, value, cause);
  }
}

function limitError(name: string, value: number | string, cause: unknown): KilnError {
  return new KilnError('E_LIMIT', `${name} cannot be set to ${value}`, {
    cause,
    hint: hasErrno(cause, 'EBUSY')
      ? 'that is less than an empty sandbox takes'
      : 'the kernel takes another value: see the limits in docs/sandboxes.md',
  });
}

function tryWrite(directory: string, name: string, value: number): void {
  // Some kernels lack the file, for example those without swap accounting.
  attempt(() => write(directory, name, value));
}
