import { readFileSync } from 'node:fs';

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
