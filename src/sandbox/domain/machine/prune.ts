/** Which files of machines nothing needs any more. */
import { readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { attempt } from '../../../host/calls/libc.ts';
import { removeTree } from '../../../host/files/remove-tree.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { bootFolder, HALF } from './boot-files.ts';
import { findKernel } from './kernel.ts';
import { SAVED_PREFIX } from './saved.ts';

/** What is older belongs to a kiln that was killed, ms. */
const MAKING = 3_600_000;

/** What no machine has booted for so long, and is not of the kernel that the next one boots, is made anew if wanted, ms. */
const UNUSED = 86_400_000;

/**
 * Removes what machines have booted or were restored of, and do not any more.
 * @param maxAge what was not used for so long goes in any case, ms
 * @returns the names of what went
 */
export async function sweepMachineFiles(
  paths: StatePaths,
  maxAge = Number.POSITIVE_INFINITY,
): Promise<string[]> {
  const current = attempt(() => basename(bootFolder(paths, findKernel())));
  const gone: string[] = [];
  for (const name of attempt(() => readdirSync(paths.machines)) ?? []) {
    const path = join(paths.machines, name);
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    const isOther = name !== current && !name.startsWith(SAVED_PREFIX);
    const most = isOther ? Math.min(maxAge, name.includes(HALF) ? MAKING : UNUSED) : maxAge;
    if (age <= most) continue;
    await removeTree(path);
    gone.push(name);
  }
  return gone;
}
