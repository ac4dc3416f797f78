import { statfsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../kernel/libc.ts';
import { PROC_SUPER_MAGIC } from '../kernel/proc.ts';

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
  if (!found.isDirectory()) throw unusable(root, `${at} is not a directory`);
  if (at !== root && statfsSync(at).type === PROC_SUPER_MAGIC) {
    throw unusable(root, `no directory can be made in ${at}`);
  }
}

/** Below what is no directory there is nothing, either. */
function look(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (hasErrno(error, 'ENOTDIR')) return undefined;
    throw unusable(path, (error as Error).message, error);
  }
}

function unusable(root: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_STATE', `cannot keep kiln’s state in ${root}: ${why}`, {
    hint: 'name a directory in KILN_STATE, or leave it unset for /var/lib/kiln',
    cause,
  });
}
