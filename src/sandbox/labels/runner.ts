import { readFileSync, writeFileSync } from 'node:fs';
import { layerMissing } from '../layers.ts';
import { securityModule } from './module.ts';

const OWN = '/proc/thread-self/attr/current';

let lowered = false;

/**
 * SELinux: leaves the categories that this thread has beyond those it always has. Pipes and sockets
 * are at the highest level of whoever makes them, and root's shell is at `s0-s0:c0.c1023`: no box
 * with a pair of categories may use one that is made there. Root's own type is not held by
 * categories, so that nothing is lost. Throws E_LAYER_MISSING.
 */
export function lowerOwnRange(): void {
  if (lowered || securityModule() !== 'selinux') return;
  const own = readFileSync(OWN, 'latin1').replace(/[\0\n]+$/, '');
  const [, low] = /^([^:]+:[^:]+:[^:]+:[^-]+)-/.exec(own) ?? [];
  try {
    if (low !== undefined) writeFileSync(OWN, low);
  } catch (cause) {
    throw layerMissing('selinux', `kiln, as ${own}, may not become ${low}`, cause);
  }
  lowered = true;
}
