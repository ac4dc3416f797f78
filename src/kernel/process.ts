/**
 * What a process does to itself. Resource limits and no_new_privs can only get tighter.
 * Sources: prctl(2), prlimit(2), linux/prctl.h, asm-generic/resource.h.
 */
import { checked, tryCall } from './system-call.ts';

const PR_SET_PDEATHSIG = 1;
const PR_SET_NO_NEW_PRIVS = 38;

const SIGKILL = 9;

/** RLIMIT_ numbers; the same on x86-64 and arm64. */
const RLIMIT = { cpu: 0, fsize: 1, data: 2, core: 4, nproc: 6, nofile: 7 } as const;

export type ResourceLimit = keyof typeof RLIMIT;

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
