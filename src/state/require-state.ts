import { statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { hasErrno } from '../kernel/libc.ts';
import { PROC_SUPER_MAGIC } from '../kernel/process.ts';
import { unusableState } from './paths.ts';

/**
 * Refuses a state directory (absolute) that is none and cannot become one: nothing kiln says of
 * what is in it would be true. One stat where it is there already.
 * @throws KilnError E_STATE
 */
export function requireState(root: string): void {
  let at = root;
  let found = look(at);
  while (found === undefined) {
    at = dirname(at);
    found = look(at);
  }
  if (!found.isDirectory()) throw unusableState(root, `${at} is not a directory`);
  if (at !== root && statfsSync(at).type === PROC_SUPER_MAGIC) {
    throw unusableState(root, `no directory can be made in ${at}`);
  }
}

/** Below what is no directory there is nothing, either. */
function look(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (hasErrno(error, 'ENOTDIR')) return undefined;
    throw unusableState(path, (error as Error).message, error);
  }
}
