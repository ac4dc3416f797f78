/** Whether a process has ended, and waiting for it: of any process, not only of a child. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from './clock.ts';

/** Longest pause between two looks, ms. */
const LONGEST_PAUSE = 50;

/**
 * Whether a process is gone, or dead and only not reaped: in many containers pid 1 never reaps
 * what it inherits (proc_pid_stat(5), state Z).
 */
export function isDead(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z');
  } catch {
    return true;
  }
}

/** Whether a process was stopped by a signal or a debugger (proc_pid_stat(5), states T and t). */
export function isStopped(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return /^[Tt]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return false;
  }
}

/**
 * When a process began, in the kernel's own ticks since the boot: with the pid it names one process for good.
 * Undefined for one that is gone.
 */
export function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // proc_pid_stat(5): field 22, of which the first two are cut off.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

/**
 * Waits until {@link isDead}, at most `within` ms; false if it is not then. Pid 1 of a pid namespace
 * dies after everything else in it has.
 */
export async function waitForDeath(pid: number, within: number): Promise<boolean> {
  const until = monotonicMs() + within;
  for (let pause = 1; !isDead(pid); pause = Math.min(pause * 1.1, LONGEST_PAUSE)) {
    if (monotonicMs() > until) return false;
    await sleep(pause);
  }
  return true;
}
