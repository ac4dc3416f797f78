import { KilnError } from '../errors.ts';
import type { CgroupLimits } from '../kernel/cgroup-files.ts';
import type { Box } from './box.ts';
import { disksOf } from './disks.ts';
import { layerMissing, type OptionalLayer } from './layers.ts';
import type { SandboxSpecification } from './specification.ts';

/** Processes and threads of a box that nobody gave a limit: a fork bomb must not be the host's. */
export const DEFAULT_PIDS = 8192;

/**
 * Puts limits on a box that waits. Throws E_LAYER_MISSING for one that cannot be had, the default
 * one of processes among them.
 */
export async function limitBox(
  { id, cgroups, channel: { initPid } }: Box,
  specification: SandboxSpecification,
): Promise<void> {
  const { limits, allowMissing } = specification;
  const put = (layer: OptionalLayer, limit: () => CgroupLimits) => {
    try {
      cgroups.limit(initPid, id, limit());
    } catch (error) {
      if (allowMissing.includes(layer)) return;
      const why = error instanceof KilnError ? error.message : 'it cannot be set';
      throw layerMissing(layer, why, error);
    }
  };
  const { memory, cpus, pids, ioRead: read, ioWrite: write } = limits;
  if (memory !== undefined) put('memory-limit', () => ({ memory }));
  if (cpus !== undefined) put('cpu-limit', () => ({ cpus }));
  put('pids-limit', () => ({ pids: pids ?? DEFAULT_PIDS }));
  if (read === undefined && write === undefined) return;
  const rates = {
    ...(read === undefined ? {} : { read }),
    ...(write === undefined ? {} : { write }),
  };
  put('io-limit', () => ({
    io: disksOf(specification).map((device) => ({ device, ...rates })),
  }));
}
