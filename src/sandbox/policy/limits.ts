import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import type { CgroupLimits, ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { backingOf } from '../../host/cgroup/cgroup-usage.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import { layerMissingError, type OptionalLayer } from './layers.ts';
import type { SandboxSpecification } from './specification.ts';

/** The limits of a sandbox; undefined means no limit of its own. */
export interface SandboxLimits {
  /** Bytes, its tmpfs and page cache included. */
  readonly memory?: number;
  /** Processors' worth of time, such as 1.5. */
  readonly cpus?: number;
  readonly pids?: number;
  /** Bytes per second from each disk. */
  readonly ioRead?: number;
  /** Bytes per second to each disk. */
  readonly ioWrite?: number;
}

export type LimitName = keyof SandboxLimits;

/**
 * Every limit: its key in recipes and service definitions, which is its option on the command line too, and the
 * layer of protection it belongs to. A new limit does not compile until it is here.
 */
export const LIMITS = {
  memory: { key: 'memory', layer: 'memory-limit' },
  cpus: { key: 'cpus', layer: 'cpu-limit' },
  pids: { key: 'pids', layer: 'pids-limit' },
  ioRead: { key: 'io-read', layer: 'io-limit' },
  ioWrite: { key: 'io-write', layer: 'io-limit' },
} as const satisfies Record<LimitName, { readonly key: string; readonly layer: OptionalLayer }>;

export const LIMIT_NAMES = Object.keys(LIMITS) as LimitName[];

/** The limits among other values, such as options of the command line. */
export function limitsOf(
  values: {
    readonly [Name in LimitName]?: number | undefined;
  },
): SandboxLimits {
  return defined(Object.fromEntries(LIMIT_NAMES.map((name) => [name, values[name]])));
}

/** The default limit of processes and threads: a fork bomb must not reach the host. */
export const DEFAULT_PIDS = 8192;

/** Less memory than a sandbox itself takes must be a typo. Bytes. */
export const MINIMUM_MEMORY = 4 << 20;

function requireMemory(memory: number | undefined): void {
  if (memory === undefined || memory >= MINIMUM_MEMORY) return;
  throw new KilnError(
    'E_LIMIT',
    `a memory limit of ${sizeInWords(memory)} is less than a sandbox takes`,
    {
      hint: 'give 4M or more, as 512M or 2G',
      details: { layer: 'memory-limit' },
    },
  );
}

/** libvirt reports no limit that it could not set, and a container may hide the group with the limit. */
function requireDefaultMemory(
  cgroups: ProcessCgroups,
  group: string,
  allowMissing: readonly OptionalLayer[],
): void {
  if (allowMissing.includes('memory-limit') || cgroups.limits(group).memory !== undefined) return;
  throw layerMissingError(
    'memory-limit',
    'no group of the sandbox’s with the default limit is seen',
  );
}

/** Whether the host supports the limit but refuses this value; then the layer is not missing. */
function isRefusedValue(error: unknown): error is KilnError {
  return error instanceof KilnError && hasErrno(error.cause, 'EINVAL', 'EBUSY', 'ERANGE');
}

export async function limitSandbox(
  { record: { domain: group }, cgroups, channel: { initPid } }: SandboxDomain,
  specification: SandboxSpecification,
): Promise<void> {
  const { limits, allowMissing } = specification;
  requireMemory(limits.memory);
  const enforce = (layer: OptionalLayer, work: () => void) => {
    try {
      work();
    } catch (error) {
      if (isRefusedValue(error)) {
        const { code, message, hint, cause } = error;
        throw new KilnError(code, message, { ...(hint && { hint }), cause, details: { layer } });
      }
      if (allowMissing.includes(layer)) return;
      const why = error instanceof KilnError ? error.message : 'it cannot be set';
      throw layerMissingError(layer, why, error);
    }
  };
  const put = (layer: OptionalLayer, limit: () => CgroupLimits) =>
    enforce(layer, () => cgroups.limit(initPid, group, limit()));
  const { memory, cpus, pids, ioRead: read, ioWrite: write } = limits;
  if (memory !== undefined) put('memory-limit', () => ({ memory }));
  if (cpus !== undefined) put('cpu-limit', () => ({ cpus }));
  put('pids-limit', () => ({ pids: pids ?? DEFAULT_PIDS }));
  if (memory === undefined) requireDefaultMemory(cgroups, group, allowMissing);
  enforce('memory-limit', () => cgroups.limitSockets());
  if (read === undefined && write === undefined) return;
  const rates = defined({ read, write });
  put('io-limit', () => ({
    io: disksOf(specification).map((device) => ({ device, ...rates })),
  }));
}

/** `MAJOR:MINOR` of image, scratch directory, binds and volumes; files in memory are on none. Throws E_LIMIT. */
function disksOf(specification: SandboxSpecification): string[] {
  const { root, scratch, binds, volumes } = specification;
  const paths = [
    root,
    ...(scratch === undefined ? [] : [scratch]),
    ...binds.map(({ place }) => place),
    ...volumes.map(({ source }) =>
      typeof source === 'number' ? `/proc/self/fd/${source}` : source,
    ),
  ];
  return [...new Set(paths.flatMap(disksBelow))];
}

function disksBelow(path: string): string[] {
  let backing: ReturnType<typeof backingOf>;
  try {
    backing = backingOf(path);
  } catch (cause) {
    if (hasErrno(cause, 'ENOENT', 'ENOTDIR')) return [];
    throw new KilnError('E_LIMIT', `cannot find out which disk ${path} is on`, {
      cause,
      hint: 'without --io-read and --io-write kiln need not know it',
    });
  }
  if (backing.kind === 'disk') return [backing.device];
  if (backing.kind === 'memory') return [];
  const { fileSystem } = backing;
  const what = `${path} is on ${fileSystem}, which does not tell the disk it is on: what is read and written there cannot be limited`;
  throw new KilnError('E_LIMIT', what, {
    hint: 'keep KILN_STATE, binds and volumes on a file system with a disk of its own, as ext4 or xfs',
    details: { path, fileSystem },
  });
}
