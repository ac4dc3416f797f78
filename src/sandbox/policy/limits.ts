import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import type { CgroupLimits, ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { disksOf } from '../domain/disks.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import { layerMissing, type OptionalLayer } from './layers.ts';
import type { SandboxSpecification } from './specification.ts';

/** The default limit of processes and threads: a fork bomb must not reach the host. */
export const DEFAULT_PIDS = 8192;

/** Less memory than a sandbox itself takes must be a typo. Bytes. */
export const MINIMUM_MEMORY = 4 << 20;

function requireMemory(memory: number | undefined): void {
  if (memory === undefined || memory >= MINIMUM_MEMORY) return;
  throw new KilnError('E_LIMIT', `a memory limit of ${memory} bytes is less than a sandbox takes`, {
    hint: 'give 4M or more, as 512M or 2G',
    details: { layer: 'memory-limit' },
  });
}

/** libvirt reports no limit that it could not set, and a container may hide the group with the limit. */
function requireDefaultMemory(
  cgroups: ProcessCgroups,
  id: string,
  allowMissing: readonly OptionalLayer[],
): void {
  if (allowMissing.includes('memory-limit') || cgroups.limits(id).memory !== undefined) return;
  throw layerMissing('memory-limit', 'no group of the sandbox’s with the default limit is seen');
}

/** Whether the host supports the limit but refuses this value; then the layer is not missing. */
function isRefusedValue(error: unknown): error is KilnError {
  return error instanceof KilnError && hasErrno(error.cause, 'EINVAL', 'EBUSY', 'ERANGE');
}

/**
 * Sets limits on a waiting sandbox. Throws E_LAYER_MISSING for a limit that the host lacks, including the
 * default one of processes, and E_LIMIT for an invalid value.
 */
export async function limitSandbox(
  { id, cgroups, channel: { initPid } }: SandboxDomain,
  specification: SandboxSpecification,
): Promise<void> {
  const { limits, allowMissing } = specification;
  requireMemory(limits.memory);
  const put = (layer: OptionalLayer, limit: () => CgroupLimits) => {
    try {
      cgroups.limit(initPid, id, limit());
    } catch (error) {
      if (isRefusedValue(error)) {
        const { code, message, hint, cause } = error;
        throw new KilnError(code, message, { ...(hint && { hint }), cause, details: { layer } });
      }
      if (allowMissing.includes(layer)) return;
      const why = error instanceof KilnError ? error.message : 'it cannot be set';
      throw layerMissing(layer, why, error);
    }
  };
  const { memory, cpus, pids, ioRead: read, ioWrite: write } = limits;
  if (memory !== undefined) put('memory-limit', () => ({ memory }));
  if (cpus !== undefined) put('cpu-limit', () => ({ cpus }));
  put('pids-limit', () => ({ pids: pids ?? DEFAULT_PIDS }));
  if (memory === undefined) requireDefaultMemory(cgroups, id, allowMissing);
  if (read === undefined && write === undefined) return;
  const rates = defined({ read, write });
  put('io-limit', () => ({
    io: disksOf(specification).map((device) => ({ device, ...rates })),
  }));
}
