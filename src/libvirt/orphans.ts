import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';

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
