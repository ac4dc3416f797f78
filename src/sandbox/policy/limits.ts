import { readdirSync } from 'node:fs';
import { readText } from '../../host/calls/libc.ts';
import type { SetupOperation } from '../wire/table.ts';
import type { OptionalLayer } from './layers.ts';

/** The limits of a sandbox; undefined means no limit of its own. */
export interface SandboxLimits {
  /** Bytes, its tmpfs and page cache included. */
  readonly memory?: number | undefined;
  /** Processors' worth of time, such as 1.5. */
  readonly cpus?: number | undefined;
  readonly pids?: number | undefined;
  /** Bytes per second from each disk. */
  readonly ioRead?: number | undefined;
  /** Bytes per second to each disk. */
  readonly ioWrite?: number | undefined;
}

export type LimitName = keyof SandboxLimits;

/** Every limit, and the layer of protection it belongs to. A new limit does not compile until it is here. */
export const LIMITS = {
  memory: 'memory-limit',
  cpus: 'cpu-limit',
  pids: 'pids-limit',
  ioRead: 'io-limit',
  ioWrite: 'io-limit',
} as const satisfies Record<LimitName, OptionalLayer>;

export const LIMIT_NAMES = Object.keys(LIMITS) as LimitName[];

/** The limits among other values, such as options of the command line. */
export function limitsOf({ memory, cpus, pids, ioRead, ioWrite }: SandboxLimits): SandboxLimits {
  const limits = { memory, cpus, pids, ioRead, ioWrite };
  return limits satisfies Record<LimitName, unknown>;
}

/** The default limit of processes and threads: a fork bomb must not reach the host. */
export const DEFAULT_PIDS = 8192;

/** Less memory than a sandbox itself takes must be a typo. Bytes. */
export const MINIMUM_MEMORY = 4 << 20;

/**
 * Counters that a user namespace may bound for itself. The kernel counts all that a sandbox has to the owner of its
 * namespace as well, which is the host's root for each sandbox: without a bound of its own, one sandbox takes what
 * root and all others have. Source: namespaces(7), the kernel's admin-guide/sysctl/user.
 */
const FOLDER = '/proc/sys/user';

/** inotify(7), fanotify(7): the host's limits, in whatever user namespace they are read. */
const WATCHES = {
  max_inotify_instances: '/proc/sys/fs/inotify/max_user_instances',
  max_inotify_watches: '/proc/sys/fs/inotify/max_user_watches',
  max_fanotify_groups: '/proc/sys/fs/fanotify/max_user_groups',
  max_fanotify_marks: '/proc/sys/fs/fanotify/max_user_marks',
};

/** The part of what the host has that one sandbox may take. */
const HOST_SHARE = 1 / 8;

let known: readonly string[] | undefined;

/** @param namespaces how many of each kind, but mount namespaces: each detached mount is one; null for a share */
export function userLimits(namespaces: number | null): SetupOperation[] {
  known ??= readdirSync(FOLDER);
  return known.flatMap((name) => {
    const isBounded = /^max_(?!mnt_)\w+_namespaces$/.test(name);
    const most = isBounded && namespaces !== null ? namespaces : shareOf(name);
    return most === undefined ? [] : [{ op: 'user-limit', name, most } as const];
  });
}

function shareOf(name: string): number | undefined {
  const watched = Object.entries(WATCHES).find(([one]) => one === name)?.[1];
  const host = Number(readText(watched ?? `${FOLDER}/${name}`) ?? Number.NaN);
  return host > 0 ? Math.max(1, Math.floor(host * HOST_SHARE)) : undefined;
}
