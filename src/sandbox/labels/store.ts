import { mkdir } from 'node:fs/promises';
import type { StatePaths } from '../../state/paths.ts';
import { securityModule } from './module.ts';
import { hasContext, relabelTree } from './relabel.ts';
import { IMAGE_CONTEXT } from './selinux.ts';

/** On a host with SELinux: gives a tree the context of images. Throws E_RELABEL. */
export async function labelForImages(tree: string): Promise<void> {
  if (securityModule() === 'selinux') await relabelTree(tree, IMAGE_CONTEXT);
}

/**
 * On a host with SELinux: images, packages and the skeleton have the context that every box may
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
