/**
 * What a process does to itself. Resource limits and no_new_privs can only get tighter.
 * Sources: prctl(2), prlimit(2), linux/prctl.h, asm-generic/resource.h.
 */
import { readFileSync, statfsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { checked, tryCall } from '../calls/system-call.ts';

const PR_SET_PDEATHSIG = 1;
const PR_SET_NO_NEW_PRIVS = 38;

const SIGKILL = 9;

/** RLIMIT_ numbers; the same on x86-64 and arm64. */
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7 } as const;

type ResourceLimit = keyof typeof RLIMIT;

/** Sets the soft and the hard limit of this process. Units as in setrlimit(2). */
export function limitResource(resource: ResourceLimit, value: number): void {
  const limit = BigUint64Array.of(BigInt(value), BigInt(value));
  checked('prlimit', tryCall('prlimit64', 0, RLIMIT[resource], limit, null), resource);
}

/** No program this thread starts can have more rights than it has. */
export function setNoNewPrivileges(): void {
  checked('prctl', tryCall('prctl', PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 'no_new_privs');
}

/** The kernel kills this process when its parent ends. Forgotten when ids change (prctl(2)). */
export function dieWithParent(): void {
  checked('prctl', tryCall('prctl', PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), 'parent death signal');
}

/* Tells whether a process has ended and waits for that: for any process, not only a child. */

/** Longest pause between two looks, ms. */
const LONGEST_PAUSE = 50;

/**
 * The fields of proc_pid_stat(5) from the third one (the state) on; undefined for a process that is gone.
 * @param proc of the process's pid namespace
 */
export function statOf(pid: number, proc = '/proc'): string[] | undefined {
  try {
    const stat = readFileSync(`${proc}/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** Whether a process is gone or a zombie. In many containers pid 1 never reaps orphans. */
export function isDead(pid: number): boolean {
  return (statOf(pid)?.[0] ?? 'Z') === 'Z';
}

/** Whether a process was stopped by a signal or a debugger. */
export function isStopped(pid: number): boolean {
  return ['T', 't'].includes(statOf(pid)?.[0] ?? '');
}

/**
 * When a process began, in kernel ticks since the boot. Pid and start name one process for good. Undefined for
 * a process that is gone.
 */
export function startOf(pid: number): string | undefined {
  return statOf(pid)?.[19];
}

/**
 * Waits up to `within` ms until {@link isDead}; false if the time runs out. Pid 1 of a pid namespace dies after
 * all other processes in it.
 */
export async function waitForDeath(pid: number, within: number): Promise<boolean> {
  const until = performance.now() + within;
  for (let pause = 1; !isDead(pid); pause = Math.min(pause * 1.1, LONGEST_PAUSE)) {
    if (performance.now() > until) return false;
    await sleep(pause);
  }
  return true;
}

/** What statfs calls /proc (linux/magic.h). */
export const PROC_SUPER_MAGIC = 0x9fa0;

/** Whether /proc is mounted and is procfs. */
export function hasProc(): boolean {
  try {
    return statfsSync('/proc').type === PROC_SUPER_MAGIC;
  } catch {
    return false;
  }
}

/* What this kernel offers of landlock(7). */

const LANDLOCK_CREATE_RULESET_VERSION = 1;

let known: number | undefined;

/** The ABI, 1 or more; 0 where the kernel lacks Landlock or was started without it (`lsm=`). */
export function landlockAbi(): number {
  known ??= Math.max(
    0,
    tryCall('landlock_create_ruleset', null, 0, LANDLOCK_CREATE_RULESET_VERSION),
  );
  return known;
}
