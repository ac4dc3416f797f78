import { existsSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { runProgram } from '../../host/process/child-process.ts';
import { copyFile, copyTree } from '../../image/tree/clone.ts';
import type { PlannedVolume } from '../../sandbox/door/plan.ts';
import type { InstanceFiles } from '../instance-files.ts';

/** The files that hold a service's /var: a directory, or an image of a fixed size. */
type VarFiles = Pick<InstanceFiles, 'var' | 'varImage'>;

/** The source of the sandbox's /var: the directory or the image. */
export function varVolume(files: VarFiles): PlannedVolume['source'] {
  return existsSync(files.varImage) ? { image: files.varImage } : files.var;
}

/** Copies a service's /var in its form; blocks are shared where the file system can. */
export function copyVar(from: VarFiles, to: VarFiles): void {
  if (!existsSync(from.varImage)) copyTree(from.var, to.var);
  else copyFile(from.varImage, to.varImage);
}

/** Moves the directory into an image of this size. Throws E_IMAGE_SIZE. */
export async function moveVarToImage(files: VarFiles, bytes: number): Promise<void> {
  await makeExt4Image(files.varImage, files.var, bytes);
  await removeTree(files.var);
}

/** Replaces a service's /var. Can be interrupted and repeated. */
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

/** The smallest size (bytes) in which ext4 has room for its own data. */
const SMALLEST = 16 * 2 ** 20;

/**
 * Makes a sparse ext4 image of a fixed size with a copy of `tree`, without mounting anything: mke2fs copies
 * owners, modes and attributes. Throws E_IMAGE_SIZE if the tree does not fit.
 */
async function makeExt4Image(path: string, tree: string, bytes: number): Promise<void> {
  if (bytes < SMALLEST) {
    throw new KilnError('E_IMAGE_SIZE', `an image of ${bytes} bytes is too small`, {
      hint: 'give it at least 16M',
    });
  }
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
  try {
    // -m 0: no blocks that only the host's root could use.
    await runProgram('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-d', tree, path], {
      works: true,
    });
  } catch (cause) {
    await rm(path, { force: true });
    throw new KilnError('E_IMAGE_SIZE', `cannot make an ext4 image of ${bytes} bytes`, {
      cause,
      hint: 'a larger one, or is e2fsprogs installed?',
    });
  }
}
