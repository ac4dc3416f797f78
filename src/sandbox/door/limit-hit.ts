import { statfsSync } from 'node:fs';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { O_PATH, openInTree } from '../../host/files/at.ts';
import type { LimitHit } from './io.ts';
import type { CommandEnd } from './supervise.ts';

/** The limit that hindered a command, by the kernel's counts; time limits are kiln's own. */
export async function limitHit(
  end: CommandEnd,
  usage: CgroupUsage,
  isDiskFull: () => Promise<boolean>,
): Promise<LimitHit | null> {
  if (end.timeLimit !== null) return end.timeLimit;
  if ((usage.oomKills ?? 0) > 0) return 'memory';
  if ((usage.pidsRefused ?? 0) > 0) return 'pids';
  // That a file system is full tells only of a command that failed what it failed of.
  if (end.exitCode === 0) return null;
  // The sandbox may have ended.
  return (await isDiskFull().catch(() => false)) ? 'disk' : null;
}

/** Mount points that every sandbox has. */
export const USUAL_DISKS = ['/', '/tmp', '/dev/shm'] as const;

export function isAnyFull(root: number, paths: readonly string[]): boolean {
  return paths.some((path) => isFull(root, path));
}

/** Whether a file system of the sandbox is full; a link on the way leads to none of the host's. */
function isFull(root: number, path: string): boolean {
  using found = openInTree(root, path, O_PATH);
  return found !== undefined && statfsSync(`/proc/self/fd/${found.fd}`).bavail === 0;
}
