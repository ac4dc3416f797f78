/**
 * Sandboxes that were killed and do not end: the kernel cannot end a process that waits for a file system in user space
 * (FUSE), say. They hold their memory until that file system answers or ends.
 */
import { readText } from '../../host/calls/libc.ts';
import { controllerPid } from '../../host/libvirt/controllers.ts';
import { embeddedFiles } from '../../host/libvirt/embedded/files.ts';
import { childrenOf, isDead, statOf } from '../../host/process/process.ts';
import { isRunning, type RecordedProcess } from '../../host/process/recorded-process.ts';
import type { StatePaths } from '../../host/state/paths.ts';

/** PF_EXITING of linux/sched.h, in the ninth field of proc_pid_stat(5). */
const EXITING = 0x4;
const FLAGS = 6;

/** Whether a process of the sandbox is left: the kernel lets go of the init last. */
export function hasProcesses(init: RecordedProcess | undefined): boolean {
  return init !== undefined && isRunning(init);
}

/** Whether its init has died, and waits for processes that have not. */
export function isEnding(init: RecordedProcess | undefined): boolean {
  return init !== undefined && hasProcesses(init) && isExiting(init.pid);
}

function isExiting(pid: number): boolean {
  return (Number(statOf(pid)?.[FLAGS]) & EXITING) !== 0;
}

/** A process in the sandbox's control group; libvirt's controller is moved out of it before the end. */
export function memberOf(init: RecordedProcess): number | undefined {
  if (!isEnding(init)) return init.pid;
  // Those that are about to be gone are in no group any more.
  return processesOf(init.pid).find((pid) => !isExiting(pid));
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

/** What lives below an init; the kernel makes it the parent of those whose parents have ended. */
function processesOf(init: number): number[] {
  const living = childrenOf(init).filter((pid) => !isDead(pid));
  return living.flatMap((pid) => [pid, ...processesOf(pid)]);
}

export function endlessProcesses(init: number | undefined): EndlessProcess[] {
  return (init === undefined ? [] : processesOf(init))
    .filter((pid) => statOf(pid)?.[0] === 'D')
    .map((pid) => ({ pid, waitsIn: readText(`/proc/${pid}/wchan`) ?? '' }));
}

/** What runs in a sandbox beside its inits: the one that is recorded has a nested one, whose children commands are. */
export function commandsOf(init: RecordedProcess | undefined): number[] {
  return init === undefined || !isRunning(init) ? [] : childrenOf(init.pid).flatMap(processesOf);
}

export function whyEndless(init: number | undefined): string {
  const texts = endlessProcesses(init).map(({ pid, waitsIn }) => {
    const fuse = waitsIn === 'request_wait_answer' ? ', for a file system in user space' : '';
    return `process ${pid} waits in the kernel (${waitsIn}${fuse})`;
  });
  return texts.length === 0 ? 'its processes have not ended yet' : texts.join(', ');
}
