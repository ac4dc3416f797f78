import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';

/**
 * Whether a libvirtd is connected to the controller of an lxc domain at this moment, as the kernel
 * lists it: see Domain.isWatched(). No daemon is asked.
 */
export function isWatchedNow(domain: string): boolean {
  // Num RefCount Protocol Flags Type St Inode Path; state 03 is SS_CONNECTED (linux/net.h).
  return socketsOf(domain).some((line) => line.split(/ +/)[5] === '03');
}

/**
 * Whether the kernel lists a socket of the domain's controller at all: where not, it has ended, or this
 * process is in another network namespace than libvirt, and knows nothing.
 */
export function isListedNow(domain: string): boolean {
  return socketsOf(domain).length > 0;
}

/** Lines of /proc/net/unix. */
function socketsOf(domain: string): string[] {
  // Also of the embedded daemon, in whose mount namespace the controller has bound it.
  const socket = `/run/libvirt/lxc/${domain}.sock`;
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n');
  return lines.filter((line) => line.endsWith(` ${socket}`));
}

/** Domains of kiln's are called so, whatever their state directory. */
const OURS = 'kiln-';

interface Controller {
  readonly name: string | undefined;
}

/** What libvirt_lxc's own command line says, where the process runs that program. */
function controllerAt(pid: string): Controller | undefined {
  try {
    const [program = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
    if (basename(program) !== 'libvirt_lxc') return undefined;
    return { name: args[args.indexOf('--name') + 1] };
  } catch {
    return undefined;
  }
}

/**
 * Whether a process is the first of a container that has not yet become its init (its command line
 * is still its controller's), and whose controller is dead. It waits for a word from the controller on
 * a socket of which it has both ends, so for ever.
 */
function isOrphan(pid: string, own: string): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/ns/pid`) === own) return false;
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [, parent = ''] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return controllerAt(parent) === undefined;
  } catch {
    return false;
  }
}

/**
 * Kills what a controller of libvirt's leaves when it is killed itself (by the kernel, short of
 * memory, or by hand) in the moment between the clone of a container and its first word to it. That
 * process keeps the pipe open on which libvirtd waits for the controller: virDomainCreateXML does not
 * return, and soon no other call does that wants the list of domains (libvirt 11.3, lxc_process.c).
 * Returns how many there were.
 *
 * @param prefix what the names of their domains begin with
 */
export function endOrphans(prefix = OURS): number {
  const own = readlinkSync('/proc/self/ns/pid');
  let ended = 0;
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || controllerAt(pid)?.name?.startsWith(prefix) !== true) continue;
    if (!isOrphan(pid, own)) continue;
    try {
      process.kill(Number(pid), 'SIGKILL');
      ended++;
    } catch {
      // Gone meanwhile.
    }
  }
  return ended;
}
