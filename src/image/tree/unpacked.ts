import { posix } from 'node:path';
import type { RpmFile, RpmPackage } from '../../rpm/package.ts';
import type { UnpackedTree } from './compose.ts';
import { TreePlan } from './plan.ts';

/**
 * The tree of one unpacked package. A file lies where its path says, unless the package itself has
 * a link on the way: then it lies where that leads.
 */
export function unpackedTree(root: string, of: RpmPackage): UnpackedTree {
  if (!hasOwnLinkOnTheWay(of)) {
    return { root, directoryOf: (file) => posix.dirname(file.path).slice(1) };
  }
  const plan = new TreePlan();
  plan.add(of);
  return { root, directoryOf: (file) => canonicalDirectory(plan, file) };
}

function canonicalDirectory(plan: TreePlan, file: RpmFile): string {
  const node = plan.find(file.path);
  return posix.dirname(node?.path ?? file.path).slice(1);
}

function hasOwnLinkOnTheWay(of: RpmPackage): boolean {
  const links = new Set(
    of.files.filter((file) => file.type === 'symlink').map((file) => file.path),
  );
  if (links.size === 0) return false;
  const folders = new Set(of.files.map((file) => posix.dirname(file.path)));
  return [...folders].some((folder) => {
    for (let path = folder; path !== '/'; path = posix.dirname(path)) {
      if (links.has(path)) return true;
    }
    return false;
  });
}
