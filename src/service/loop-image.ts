import { open, rm } from 'node:fs/promises';
import { KilnError } from '../errors.ts';
import { runProgram } from '../kernel/child-process.ts';

/** Smaller than this (bytes) ext4 has no room for its own. */
const SMALLEST = 16 * 2 ** 20;

/**
 * Makes an ext4 image of a fixed size with a copy of `tree` in it, sparse on the host, without
 * mounting anything: mke2fs copies owners, modes and attributes itself.
 * Throws E_IMAGE_SIZE when the tree does not fit.
 */
export async function makeExt4Image(path: string, tree: string, bytes: number): Promise<void> {
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
