import { closeSync, constants, lstatSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { closing } from '../host/calls/descriptor.ts';
import { type AssembledTree, clampTimes, removeMountPoints, type TreeOptions } from './assemble.ts';
import type { LeasedImage } from './store/images.ts';
import { installOnTop, rpmMissing } from './transaction/exact.ts';
import { cloneTree } from './tree/clone.ts';
import { mergeOverlay } from './tree/merge-overlay.ts';
import { openInTree } from './tree/path.ts';

/**
 * Makes a tree from the base image by letting the base's own rpm install more packages. Only the new packages
 * cost time.
 * @throws KilnError E_SCRIPTLET, E_RPM_MISSING, E_DISK.
 */
export async function extendTree(
  options: TreeOptions & { readonly base: LeasedImage },
): Promise<AssembledTree> {
  const { engine, base, scriptlets, work, signal } = options;
  const { epoch } = base.manifest;
  const rpm = findInstalledRpm(base.tree);
  if (rpm === undefined) throw rpmMissing([`${base.manifest.name} is extended`]);
  const inner = join(work, 'transaction');
  mkdirSync(inner, { mode: 0o700 });
  const packages = await options.fetchFiles();
  const path = join(work, 'extended');
  const clamp = clampTimes(epoch);
  const { upper, warnings } = await installOnTop({
    engine,
    tree: base.tree,
    rpm,
    work: inner,
    packages,
    timeout: scriptlets.timeout * (packages.length + 1),
    disk: scriptlets.disk,
    noScripts: scriptlets.mode === 'none',
    signal,
    meanwhile: () => cloneTree(base.tree, path),
  });
  removeMountPoints(
    upper,
    (name) => lstatSync(join(base.tree, name), { throwIfNoEntry: false }) !== undefined,
  );
  const displaced = join(work, 'displaced');
  mkdirSync(displaced);
  const trash = openSync(displaced, constants.O_RDONLY | constants.O_DIRECTORY);
  using _trash = closing(trash);
  const { bytes } = mergeOverlay(upper, path, trash, clamp);
  return {
    path,
    transaction: 'exact',
    exactReasons: [`it extends ${base.manifest.id}`],
    warnings,
    linked: [],
    epoch,
    bytes: base.manifest.bytes + bytes,
    ownBytes: bytes,
  };
}

function findInstalledRpm(tree: string): string | undefined {
  const root = openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY);
  using _root = closing(root);
  return ['/usr/bin/rpm', '/bin/rpm'].find((path) => {
    const fd = openInTree(root, path, constants.O_RDONLY);
    if (fd !== undefined) closeSync(fd);
    return fd !== undefined;
  });
}
