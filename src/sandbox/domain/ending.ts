/**
 * Sandboxes that were killed and do not end: the kernel cannot end a process that waits for a file system in user space
 * (FUSE), say. They hold their memory until that file system answers or ends.
 */
import { attempt, readText } from '../../host/calls/libc.ts';
import { ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { controllerPid } from '../../host/libvirt/controllers.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { isDead, startOf, statOf } from '../../host/process/process.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { SandboxRecord } from './sandbox-record.ts';

/** The init of a sandbox, by the host's pids. */
export interface SandboxInit {
  readonly pid: number;
  readonly start: string;
}

/** PF_EXITING of linux/sched.h, in the ninth field of proc_pid_stat(5). */
const EXITING = 0x4;
const FLAGS = 6;

export function initOf(pid: number): SandboxInit | undefined {
  const start = startOf(pid);
  return start === undefined ? undefined : { pid, start };
}

/** Whether a process of the sandbox is left: the kernel lets go of the init last. */
export function hasProcesses({ init }: Pick<SandboxRecord, 'init'>): boolean {
  return init !== undefined && startOf(init.pid) === init.start && !isDead(init.pid);
}

/** Whether its init has died, and waits for processes that have not. */
export function isEnding(record: Pick<SandboxRecord, 'init'>): boolean {
  if (record.init === undefined || !hasProcesses(record)) return false;
  return (Number(statOf(record.init.pid)?.[FLAGS]) & EXITING) !== 0;
}

/** Where a system libvirtd's controllers have sockets, and folders to mount on. It never removes them. */
export const SYSTEM_DOMAIN_RUN = '/run/libvirt/lxc';

/** The pid of a domain's libvirt_lxc, which the init is a child of. */
export function controllerOf(paths: StatePaths, domain: string): number | undefined {
  const folders = [embeddedFiles(paths).domainRun, SYSTEM_DOMAIN_RUN];
  return folders.map((folder) => controllerPid(folder, domain)).find(Boolean);
}

/** A process that the kernel cannot end now, and where in the kernel it waits. */
export interface EndlessProcess {
  readonly pid: number;
  readonly waitsIn: string;
}

export function endlessProcesses(paths: StatePaths, domain: string): EndlessProcess[] {
  const controller = controllerOf(paths, domain);
  // An init that has died is in no group any more; libvirt's controller, which waits for it, is.
  if (controller === undefined) return [];
  return (attempt(() => ProcessCgroups.of(controller).processes()) ?? [])
    .filter((pid) => statOf(pid)?.[0] === 'D')
    .map((pid) => ({ pid, waitsIn: readText(`/proc/${pid}/wchan`) ?? '' }));
}

export function whyEndless(paths: StatePaths, domain: string): string {
  const texts = endlessProcesses(paths, domain).map(({ pid, waitsIn }) => {
    const fuse = waitsIn === 'request_wait_answer' ? ', for a file system in user space' : '';
    return `process ${pid} waits in the kernel (${waitsIn}${fuse})`;
  });
  return texts.length === 0 ? 'its processes have not ended yet' : texts.join(', ');
}
