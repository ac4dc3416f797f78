import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { AT_FDCWD, openDirectory } from '../host/files/at.ts';
import { loadFileSystem, mountOverlay } from '../host/files/mount.ts';
import type { SnapshotLayer } from '../sandbox/policy/specification.ts';

/**
 * What a sandbox sees at first that stands on an image and these layers: a detached, read-only mount, whose descriptor
 * the caller closes. What is in it is hostile. @throws KilnError E_SNAPSHOT
 */
export function openStack(
  image: { readonly tree: string },
  layers: readonly SnapshotLayer[],
): number {
  using stack = new DisposableStack();
  const trees = [...layers.map(({ tree }) => tree).reverse(), image.tree];
  if (layers.length === 0) return openDirectory(AT_FDCWD, image.tree);
  const open = (tree: string) => stack.use(closing(openDirectory(AT_FDCWD, tree))).fd;
  try {
    loadFileSystem('overlay');
    return mountOverlay(trees.map(open));
  } catch (cause) {
    throw new KilnError('E_SNAPSHOT', 'the layers of the snapshot cannot be put together', {
      cause,
      hint: '`kiln doctor` tells what this host lacks',
    });
  }
}
