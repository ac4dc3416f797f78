import { existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { copyFile, copyTree } from '../image/tree/clone.ts';
import { removeTree } from '../kernel/remove-tree.ts';
import type { PlannedVolume } from '../sandbox/door/plan.ts';
import type { InstanceFiles } from './instance-files.ts';
import { makeExt4Image } from './loop-image.ts';

/** The part of a service's files that is its /var: a directory, or an image of a fixed size. */
type VarFiles = Pick<InstanceFiles, 'var' | 'varImage'>;

/** What a sandbox gets as /var: the directory, or the image. */
export function varVolume(files: VarFiles): PlannedVolume['source'] {
  return existsSync(files.varImage) ? { image: files.varImage } : files.var;
}

/** Copies a service's /var as it is kept; blocks are shared where the file system can. */
export function copyVar(from: VarFiles, to: VarFiles): void {
  if (!existsSync(from.varImage)) copyTree(from.var, to.var);
  else copyFile(from.varImage, to.varImage);
}

/** Puts the directory into an image of so many bytes. Throws E_IMAGE_SIZE. */
export async function moveVarToImage(files: VarFiles, bytes: number): Promise<void> {
  await makeExt4Image(files.varImage, files.var, bytes);
  await removeTree(files.var);
}

/** Replaces a service's /var by another; may be interrupted and done again. */
export async function replaceVar(from: VarFiles, to: VarFiles): Promise<void> {
  for (const kind of ['var', 'varImage'] as const) {
    if (!existsSync(from[kind])) continue;
    const failed = `${to[kind]}.failed`;
    await removeTree(failed);
    if (existsSync(to[kind])) await rename(to[kind], failed);
    await rename(from[kind], to[kind]);
    await removeTree(failed);
  }
}
