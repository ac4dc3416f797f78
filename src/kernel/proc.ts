import { statfsSync } from 'node:fs';

/** What statfs calls /proc (linux/magic.h). */
export const PROC_SUPER_MAGIC = 0x9fa0;

/** Whether /proc is what its name says. */
export function hasProc(): boolean {
  try {
    return statfsSync('/proc').type === PROC_SUPER_MAGIC;
  } catch {
    return false;
  }
}
