import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';

/** The error for what is, or would be, more than its bound. */
export function diskExceeded(who: string, what: string, hint: string): KilnError {
  return new KilnError('E_DISK', `${who} put ${what} on the disk`, { hint });
}

/** Whether it says that a disk is full, nearly full, or filled beyond a bound: what was begun is to go at once. */
export function isDiskShort(error: unknown): boolean {
  const codes: readonly ErrorCode[] = ['E_DISK', 'E_DISK_LOW', 'E_DISK_FULL', 'E_TREE_DEPTH'];
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof KilnError && codes.includes(cause.code)) return true;
  }
  return false;
}
