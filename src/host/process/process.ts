/**
 * What a process does to itself. Resource limits and no_new_privs can only get tighter.
 * Sources: prctl(2), prlimit(2), linux/prctl.h, asm-generic/resource.h.
 */
import { existsSync, readFileSync, readlinkSync, statfsSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { attempt, readText } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';

const PR_SET_PDEATHSIG = 1;
const PR_SET_NO_NEW_PRIVS = 38;

const SIGKILL = 9;

const RLIMIT = {
  ...{ cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7 },
  ...{ sigpending: 11, msgqueue: 12 },
} as const;

type ResourceLimit = keyof typeof RLIMIT;

export function limitResource(resource: ResourceLimit, value: number): void {
  const limit = BigUint64Array.of(BigInt(value), BigInt(value));
  checked('prlimit', tryCall('prlimit64', 0, RLIMIT[resource], limit, null), resource);
}

/** What ps, top and systemctl call this process: Node's own name is that of a thread. */
export function nameProcess(name: string): void {
  attempt(() => writeFileSync('/proc/self/comm', name));
}

/** The initial pid namespace: PROC_PID_INIT_INO of linux/proc_ns.h. */
export const HOST_PIDS = 'pid:[4026531836]';

export function pidNamespace(): string {
  return readlinkSync('/proc/self/ns/pid');
}

/** CAP_SYS_RESOURCE (capabilities(7)), which root in a container may lack. */
export function mayRaiseLimits(): boolean {
  const effective = /^CapEff:\t([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return ((BigInt(`0x${effective ?? '0'}`) >> 24n) & 1n) === 1n;
}

export function hardLimit(resource: ResourceLimit): bigint {
  const limit = new BigUint64Array(2);
  checked('prlimit', tryCall('prlimit64', 0, RLIMIT[resource], null, limit), resource);
  return limit[1]!;
}

/** Raises a process's hard limit of open files to this one's; its soft limit stays. */
export function shareOpenFiles(pid: number): void {
  const [own, its] = [hardLimit('nofile'), new BigUint64Array(2)];
  // The process may be gone, which its other end tells.
  if (tryCall('prlimit64', pid, RLIMIT.nofile, null, its) !== 0 || its[1]! >= own) return;
  tryCall('prlimit64', pid, RLIMIT.nofile, BigUint64Array.of(its[0]!, own), null);
}

export function setNoNewPrivileges(): void {
  checked('prctl', tryCall('prctl', PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 'no_new_privs');
}

/** The kernel kills this process when its parent ends. Forgotten when ids change (prctl(2)). */
export function dieWithParent(): void {
  checked('prctl', tryCall('prctl', PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), 'parent death signal');
}

const LONGEST_PAUSE = 50;

/**
 * Fields of proc_pid_stat(5) from the third (the state) on; undefined if it is gone. @param proc of its pid
 * namespace
 */
export function statOf(pid: number, proc = '/proc'): string[] | undefined {
  const stat = readText(`${proc}/${pid}/stat`, 'latin1');
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** A zombie counts: in many containers pid 1 never reaps orphans. */
export function isDead(pid: number): boolean {
  return (statOf(pid)?.[0] ?? 'Z') === 'Z';
}

export function isStopped(pid: number): boolean {
  return ['T', 't'].includes(statOf(pid)?.[0] ?? '');
}

/** Kernel ticks since the boot: pid and start name one process for good. Undefined for one that is gone. */
export function startOf(pid: number): string | undefined {
  return statOf(pid)?.[19];
}

/** Of its first thread, by which libvirt's controllers start their inits. */
export function childrenOf(pid: number): number[] {
  const text = readText(`/proc/${pid}/task/${pid}/children`, 'latin1') ?? '';
  return (text.match(/\d+/g) ?? []).map(Number);
}

/** False after `within` ms. Pid 1 of a pid namespace dies after all others in it. */
export async function waitForDeath(pid: number, within: number): Promise<boolean> {
  const until = performance.now() + within;
  for (let pause = 1; !isDead(pid); pause = Math.min(pause * 1.1, LONGEST_PAUSE)) {
    if (performance.now() > until) return false;
    await sleep(pause);
  }
  return true;
}

/** Looks until something is so. @param pause between two looks, ms @returns false after `within` ms */
export async function until(
  isSo: () => boolean | Promise<boolean>,
  within: number,
  pause: number,
): Promise<boolean> {
  for (const end = performance.now() + within; !(await isSo()); await sleep(pause)) {
    if (performance.now() > end) return false;
  }
  return true;
}

export const PROC_SUPER_MAGIC = 0x9fa0;

export function hasProc(): boolean {
  return attempt(() => statfsSync('/proc').type) === PROC_SUPER_MAGIC;
}

export function hasSystemd(): boolean {
  return existsSync('/run/systemd/system');
}

const LANDLOCK_CREATE_RULESET_VERSION = 1;

let known: number | undefined;

/** The ABI of landlock(7), 1 or more; 0 where the kernel lacks Landlock or was started without it (`lsm=`). */
export function landlockAbi(): number {
  known ??= Math.max(
    0,
    tryCall('landlock_create_ruleset', null, 0, LANDLOCK_CREATE_RULESET_VERSION),
  );
  return known;
}

/** Capabilities by their number, from linux/capability.h (41 of them since Linux 5.9). */
export const CAPABILITIES = [
  ...['CHOWN', 'DAC_OVERRIDE', 'DAC_READ_SEARCH', 'FOWNER', 'FSETID', 'KILL', 'SETGID', 'SETUID'],
  ...['SETPCAP', 'LINUX_IMMUTABLE', 'NET_BIND_SERVICE', 'NET_BROADCAST', 'NET_ADMIN', 'NET_RAW'],
  ...['IPC_LOCK', 'IPC_OWNER', 'SYS_MODULE', 'SYS_RAWIO', 'SYS_CHROOT', 'SYS_PTRACE', 'SYS_PACCT'],
  ...['SYS_ADMIN', 'SYS_BOOT', 'SYS_NICE', 'SYS_RESOURCE', 'SYS_TIME', 'SYS_TTY_CONFIG', 'MKNOD'],
  ...['LEASE', 'AUDIT_WRITE', 'AUDIT_CONTROL', 'SETFCAP', 'MAC_OVERRIDE', 'MAC_ADMIN', 'SYSLOG'],
  ...['WAKE_ALARM', 'BLOCK_SUSPEND', 'AUDIT_READ', 'PERFMON', 'BPF', 'CHECKPOINT_RESTORE'],
] as const;

export type Capability = (typeof CAPABILITIES)[number];
