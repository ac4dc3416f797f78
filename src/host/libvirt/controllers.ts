import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { attempt, readText } from '../calls/libc.ts';
import { pidNamespace, statOf } from '../process/process.ts';

/** Whether the kernel lists a libvirtd that is connected to the domain's controller; see Domain.isWatched(). */
export function isWatchedNow(domain: string): boolean {
  // Num RefCount Protocol Flags Type St Inode Path; state 03 is SS_CONNECTED (linux/net.h).
  const isConnected = () => socketsOf(domain).some((line) => line.split(/ +/)[5] === '03');
  // The kernel lists sockets in pieces: one may be missing while others of its bucket are closed.
  return isConnected() || isConnected();
}

export function isListedNow(domain: string): boolean {
  return socketsOf(domain).length > 0;
}

function socketsOf(domain: string): string[] {
  const socket = `/run/libvirt/lxc/${domain}.sock`;
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n');
  return lines.filter((line) => line.endsWith(` ${socket}`));
}

const OURS = 'kiln-';

function controllerAt(pid: string): { readonly name: string | undefined } | undefined {
  const [program = '', ...args] = readText(`/proc/${pid}/cmdline`, 'latin1')?.split('\0') ?? [];
  if (basename(program) !== 'libvirt_lxc') return undefined;
  return { name: args[args.indexOf('--name') + 1] };
}

/** The running controller of a domain, by the pid file that libvirt keeps in `folder`. */
export function controllerPid(folder: string, domain: string): number | undefined {
  const pid = readText(join(folder, `${domain}.pid`));
  return pid !== undefined && controllerAt(pid)?.name === domain ? Number(pid) : undefined;
}

/**
 * Whether a process is the first one of a container, has not become its init yet, and has a dead controller: it
 * waits for ever for a message on a socket of which it holds both ends.
 */
function isOrphan(pid: string, own: string): boolean {
  const namespace = attempt(() => readlinkSync(`/proc/${pid}/ns/pid`));
  if (namespace === undefined || namespace === own) return false;
  const parent = statOf(Number(pid))?.[1];
  return parent !== undefined && controllerAt(parent) === undefined;
}

/**
 * Kills the process that a killed libvirt_lxc can leave behind. It keeps the pipe open on which libvirtd waits
 * for the controller: virDomainCreateXML does not return, and soon no call does that needs the list of domains
 * (libvirt 11.3, lxc_process.c).
 * @param prefix what the names of their domains begin with
 * @returns how many were killed
 */
export function endOrphans(prefix = OURS): number {
  const own = pidNamespace();
  let ended = 0;
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || controllerAt(pid)?.name?.startsWith(prefix) !== true) continue;
    if (!isOrphan(pid, own)) continue;
    // It may be gone meanwhile.
    if (attempt(() => process.kill(Number(pid), 'SIGKILL')) === true) ended++;
  }
  return ended;
}
