import { landlockAbi } from '../../host/process/process.ts';
import type { LandlockWall } from '../wire/exec.ts';
import type { Capability } from './capabilities.ts';
import { layerMissing, requireLayer } from './layers.ts';
import type { Surroundings } from './surroundings.ts';

/** The first Landlock ABI with each wall (landlock(7)). */
export const FIRST_ABI: Readonly<Record<LandlockWall, number>> = {
  files: 1,
  'no-tcp': 4,
  'abstract-sockets': 6,
};

/** What decides which walls of Landlock a command gets. */
export interface LandlockUse {
  readonly capabilities: readonly Capability[];
  /** The name of the seccomp profile: `strict` allows no TCP. */
  readonly seccomp: string;
  readonly surroundings: Pick<Surroundings, 'hostNetwork' | 'mounts' | 'allowMissing'>;
}

/** Whether a command may mount: behind Landlock's rules for files nothing can be mounted. */
export function mayMount({ capabilities, surroundings }: Omit<LandlockUse, 'seccomp'>): boolean {
  return surroundings.mounts || capabilities.includes('SYS_ADMIN');
}

/**
 * Landlock's walls around a command. A command that may mount has no wall around files; the other walls do not
 * prevent mounts. Throws E_LAYER_MISSING.
 */
export function landlockWalls(use: LandlockUse): LandlockWall[] {
  const { seccomp, surroundings } = use;
  const { hostNetwork, allowMissing } = surroundings;
  const wanted: LandlockWall[] = mayMount(use) ? [] : ['files'];
  if (seccomp === 'strict') wanted.push('no-tcp');
  // In any other network, the namespace separates abstract sockets already.
  if (hostNetwork) wanted.push('abstract-sockets');
  if (wanted.length === 0 || !requireLayer('landlock', allowMissing)) return [];
  const abi = landlockAbi();
  return wanted.filter((wall) => {
    if (FIRST_ABI[wall] <= abi) return true;
    if (allowMissing.includes('landlock')) return false;
    throw layerMissing('landlock', `${wall} needs ABI ${FIRST_ABI[wall]}, this kernel has ${abi}`);
  });
}
