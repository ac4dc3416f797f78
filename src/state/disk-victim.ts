import { hasErrno } from '../kernel/libc.ts';
import { startOf } from '../kernel/process.ts';

/** A process that is killed when a disk fills: the init of what writes to it. */
export interface Victim {
  readonly pid: number;
  /** What {@link startOf} says of it; undefined if it was gone already. */
  readonly start: string | undefined;
}

/** Kills it, unless it is gone: another process may have its pid by then. */
export function killVictim(victim: Victim | undefined): void {
  if (victim?.start === undefined || startOf(victim.pid) !== victim.start) return;
  try {
    process.kill(victim.pid, 'SIGKILL');
  } catch (error) {
    if (!hasErrno(error, 'ESRCH')) throw error;
  }
}
