/**
 * Groups of the processes that work for one user of kilnd, beside those of the user's sandboxes. Sources: the
 * kernel's admin-guide/cgroup-v1 and cgroup-v2.
 */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { writeFile as writeFileInThread } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno, readText } from '../calls/libc.ts';
import {
  type CgroupHierarchy,
  hierarchiesOf,
  kilnGroup,
  passControllersOn,
  removeOwnCgroups,
} from './cgroup.ts';
import { type CgroupLimits, ProcessCgroups } from './cgroup-files.ts';
import { readUsage } from './cgroup-usage.ts';

const CONTROLLERS = ['memory', 'cpu'] as const;

interface Place {
  readonly run: string;
}

/** @param uid without it, what the names of all users' groups begin with */
export function workGroup({ run }: Place, uid: number | '' = ''): string {
  return `work-${basename(run)}-${uid}`;
}

let entered: { readonly name: string; readonly killsBefore: number } | undefined;

/**
 * Moves this process to the group `name`, unless it is there, and sets the group's limits. What it starts from now on
 * begins there. @throws KilnError E_LIMIT, E_NO_CGROUPS
 */
export function enterWorkGroup(name: string, limits: CgroupLimits): void {
  try {
    const hierarchies = entered?.name === name ? [] : hierarchiesOf(CONTROLLERS);
    for (const hierarchy of hierarchies) enter(hierarchy, name);
  } catch (cause) {
    throw new KilnError('E_NO_CGROUPS', `no cgroup can be made for a user’s work: ${name}`, {
      cause,
      hint: '`kiln doctor cgroups` says what this host lacks',
    });
  }
  ProcessCgroups.of(process.pid).limit(process.pid, name, limits);
  if (limits.cpus === undefined) freeProcessors(name);
  entered = { name, killsBefore: memoryKills(name) };
}

function enter({ path, version }: CgroupHierarchy, name: string): void {
  const group = kilnGroup(path, name);
  const [pid, procs] = [String(process.pid), join(group, 'cgroup.procs')];
  for (let attempt = 1; ; attempt++) {
    try {
      mkdirSync(group, { recursive: true });
      if (version === 2) {
        passControllersOn(path, CONTROLLERS);
        writeFileSync(procs, pid);
      } else {
        // The first thread decides for the memory of all and for children. Moving it alone takes no time, all threads
        // 10 ms: the kernel waits for all processors.
        writeFileSync(join(group, 'tasks'), '0');
        writeFileInThread(procs, pid).catch(() => undefined);
      }
      return;
    } catch (error) {
      // Somebody may have removed it while it was empty.
      if (!hasErrno(error, 'ENOENT', 'ENODEV') || attempt === 10) throw error;
    }
  }
}

/** The group may have been there before, with a limit that root has taken back. */
function freeProcessors(name: string): void {
  for (const { path, version } of hierarchiesOf(['cpu'])) {
    const [file, none] = version === 2 ? ['cpu.max', 'max'] : ['cpu.cfs_quota_us', '-1'];
    // Without the file there was no limit.
    attempt(() => writeFileSync(join(kilnGroup(path, name), file), none));
  }
}

/** How many processes of the group the kernel has killed at its limit of memory. */
export function memoryKills(name: string): number {
  const [hierarchy] = hierarchiesOf(['memory']);
  if (hierarchy === undefined) return 0;
  const { path, version } = hierarchy;
  const memory = kilnGroup(path, name);
  return readUsage({ version, memory, cpuacct: undefined, pids: undefined }).oomKills ?? 0;
}

/** Whether that befell this process's group since it came there. */
export function killedForMemory(): boolean {
  return entered !== undefined && memoryKills(entered.name) > entered.killsBefore;
}

export const OUT_OF_MEMORY = 'the memory limit of what kiln does for you was reached';
export const OUT_OF_MEMORY_HINT =
  'do less at the same time; root can raise users.limits.memory (docs/administration.md)';

/**
 * Removes groups of all users without a process.
 * @param busy those with one: whether it is dying, so that they are awaited, or has work, so that looking on costs time
 */
export async function sweepWorkGroups(of: Place, busy: 'await' | 'leave' = 'await'): Promise<void> {
  const names = hierarchiesOf(CONTROLLERS).flatMap(
    ({ path }) => attempt(() => readdirSync(kilnGroup(path))) ?? [],
  );
  const own = new Set(names.filter((name) => name.startsWith(workGroup(of))));
  // Another daemon of the state may still use some.
  const swept = [...own].filter((name) => busy === 'await' || isEmpty(name));
  await Promise.allSettled(swept.map(removeOwnCgroups));
}

function isEmpty(name: string): boolean {
  return hierarchiesOf(CONTROLLERS).every(
    ({ path }) => !readText(join(kilnGroup(path, name), 'cgroup.procs')),
  );
}
