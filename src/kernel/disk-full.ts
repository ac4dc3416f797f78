import { KilnError } from '../errors.ts';
import { hasErrno } from './libc.ts';

/** The code of the error that says so, also when a confined child was the one to find out. */
export const DISK_FULL = 'E_DISK_FULL';

/** Whether it, or what caused it, is a write for which there was no room: ENOSPC, EDQUOT. */
export function isDiskFull(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (hasErrno(cause, 'ENOSPC', 'EDQUOT')) return true;
    if (cause instanceof KilnError && cause.code === DISK_FULL) return true;
  }
  return false;
}

/** What to throw for an error of work that writes to `directory`: E_DISK_FULL if that is why. */
export function namingFullDisk(error: unknown, directory: string): unknown {
  if (!isDiskFull(error)) return error;
  return new KilnError(DISK_FULL, `no room is left for ${directory}`, {
    cause: error,
    hint: '`kiln gc --max-size 10G` makes room; KILN_STATE may lie on another disk',
  });
}
