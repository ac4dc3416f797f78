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
