import { landlockAbi } from '../kernel/landlock.ts';
import type { Capability } from './capabilities.ts';
import { layerMissing, type OptionalLayer, requireLayer } from './layers.ts';
import type { LandlockWall } from './protocol/exec.ts';
import type { SandboxSpecification } from './specification.ts';

/** The first ABI that can do it (landlock(7)). */
export const FIRST_ABI: Readonly<Record<LandlockWall, number>> = {
  files: 1,
  'no-tcp': 4,
  'abstract-sockets': 6,
};

/** What decides which of Landlock's walls stand around a command. */
export interface LandlockUse {
  readonly capabilities: readonly Capability[];
  /** The name of the seccomp profile: `strict` allows no TCP. */
  readonly seccomp?: string;
  readonly network?: SandboxSpecification['network'];
  /** Other sandboxes are to be made in the box. */
  readonly nested?: boolean;
  readonly allowMissing: readonly OptionalLayer[];
}

/**
 * Landlock's walls around a command. None for one with SYS_ADMIN or in a nested box: behind
 * Landlock nothing can be mounted, which is what they are for. Throws E_LAYER_MISSING.
 */
export function landlockWalls(use: LandlockUse): LandlockWall[] {
  if (use.capabilities.includes('SYS_ADMIN') || use.nested === true) return [];
  if (!requireLayer('landlock', use.allowMissing)) return [];
  const wanted: LandlockWall[] = ['files'];
  if (use.seccomp === 'strict') wanted.push('no-tcp');
  // Elsewhere the network namespace keeps them apart.
  if (use.network === 'host') wanted.push('abstract-sockets');
  const abi = landlockAbi();
  return wanted.filter((wall) => {
    if (FIRST_ABI[wall] <= abi) return true;
    if (use.allowMissing.includes('landlock')) return false;
    throw layerMissing('landlock', `${wall} needs ABI ${FIRST_ABI[wall]}, this kernel has ${abi}`);
  });
}
