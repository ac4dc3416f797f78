import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';

/**
 * Whether a libvirtd is connected to the controller of an lxc domain at this moment, as the kernel lists it;
 * see Domain.isWatched(). Does not ask the daemon.
 */
export function isWatchedNow(domain: string): boolean {
  // Num RefCount Protocol Flags Type St Inode Path; state 03 is SS_CONNECTED (linux/net.h).
  return socketsOf(domain).some((line) => line.split(/ +/)[5] === '03');
}

/**
 * Whether the kernel lists a socket of the domain's controller. If not, the controller has ended, or this
 * process is in another network namespace than libvirt and cannot tell.
 */
export function isListedNow(domain: string): boolean {
  return socketsOf(domain).length > 0;
}

/** Lines of /proc/net/unix. */
function socketsOf(domain: string): string[] {
  // The embedded daemon's controllers have the same path, in the daemon's mount namespace.
  const socket = `/run/libvirt/lxc/${domain}.sock`;
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n');
  return lines.filter((line) => line.endsWith(` ${socket}`));
}

/** Names of kiln's domains begin so, for every state directory. */
const OURS = 'kiln-';

interface Controller {
  readonly name: string | undefined;
}

/** What the command line of libvirt_lxc says, if the process runs that program. */
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
 * Whether a process is the first one of a container, has not become its init yet (its command line is still its
 * controller's), and has a dead controller. It waits for a message from the controller on a socket of which it
 * holds both ends, so it waits for ever.
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
 * Kills the process that a killed libvirt_lxc can leave behind. If the controller dies between the clone of the
 * container and its first message to it, the container's first process keeps the pipe open on which libvirtd
 * waits for the controller. Then virDomainCreateXML does not return, and soon no call does that needs the list
 * of domains (libvirt 11.3, lxc_process.c). Returns how many processes were killed.
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
