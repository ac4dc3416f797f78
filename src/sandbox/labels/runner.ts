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
 * SELinux: leaves the categories that this thread has beyond those it always has. Pipes and sockets
 * are at the highest level of whoever makes them, and root's shell is at `s0-s0:c0.c1023`: no sandbox
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

/** On a host with SELinux: gives a tree the context of images. Throws E_RELABEL. */
export async function labelForImages(tree: string): Promise<void> {
  if (securityModule() === 'selinux') await relabelTree(tree, IMAGE_CONTEXT);
}

/**
 * On a host with SELinux: images, packages and the skeleton have the context that every sandbox may
 * read. What is made below a folder has the folder's type, so that after the first time, with an
 * empty store, there is nothing to do. Throws E_RELABEL.
 */
export async function ensureStoreContext(paths: StatePaths): Promise<void> {
  if (securityModule() !== 'selinux') return;
  for (const folder of [paths.store, paths.skeleton]) {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    if (!hasContext(folder, IMAGE_CONTEXT)) await relabelTree(folder, IMAGE_CONTEXT);
  }
}
