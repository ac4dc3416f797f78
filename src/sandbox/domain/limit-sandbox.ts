import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import { backingOf } from '../../host/cgroup/cgroup-usage.ts';
import { layerMissingError, type OptionalLayer } from '../policy/layers.ts';
import { DEFAULT_PIDS, MINIMUM_MEMORY } from '../policy/limits.ts';
import type { SandboxSpecification } from '../policy/specification.ts';
import type { Ground } from './ground.ts';

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
function requireDefaultMemory(ground: Ground, allowMissing: readonly OptionalLayer[]): void {
  if (allowMissing.includes('memory-limit') || ground.limits().memory !== undefined) return;
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
  ground: Ground,
  specification: SandboxSpecification,
): Promise<void> {
  const { limits, allowMissing } = specification;
  requireMemory(limits.memory);
  const enforce = async (layer: OptionalLayer, work: () => Promise<void> | void) => {
    try {
      await work();
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
    enforce(layer, () => ground.limit(limit()));
  const { memory, cpus, pids, ioRead: read, ioWrite: write } = limits;
  if (memory !== undefined) await put('memory-limit', () => ({ memory }));
  if (cpus !== undefined) await put('cpu-limit', () => ({ cpus }));
  await put('pids-limit', () => ({ pids: pids ?? DEFAULT_PIDS }));
  if (memory === undefined) requireDefaultMemory(ground, allowMissing);
  await enforce('memory-limit', () => ground.limitSockets());
  if (read === undefined && write === undefined) return;
  await put('io-limit', () => ({
    io: disksOf(specification).map((device) => ({ device, read, write })),
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
