import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import type { StatePaths } from '../../host/state/paths.ts';
import { layerMissing } from '../policy/layers.ts';
import { securityModule } from './module.ts';
import { hasContext, relabelTree } from './relabel.ts';
import { IMAGE_CONTEXT } from './selinux.ts';

const OWN = '/proc/thread-self/attr/current';

let lowered = false;

/**
 * SELinux: drops the categories that this thread has beyond its low level. Pipes and sockets get the highest
 * level of their maker, and root's shell is at `s0-s0:c0.c1023`: a sandbox with a pair of categories could not
 * use pipes made there. Root's own type is not restricted by categories, so nothing is lost. Throws
 * E_LAYER_MISSING.
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

/** On a host with SELinux: gives a tree the context of images. Throws E_RELABEL. */
export async function labelForImages(tree: string): Promise<void> {
  if (securityModule() === 'selinux') await relabelTree(tree, IMAGE_CONTEXT);
}

/**
 * On a host with SELinux: gives images, packages and the skeleton the context that every sandbox may read. New
 * files inherit the type of their folder, so after the first call, with an empty store, nothing is left to do.
 * Throws E_RELABEL.
 */
export async function ensureStoreContext(paths: StatePaths): Promise<void> {
  if (securityModule() !== 'selinux') return;
  for (const folder of [paths.store, paths.skeleton]) {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    if (!hasContext(folder, IMAGE_CONTEXT)) await relabelTree(folder, IMAGE_CONTEXT);
  }
}
