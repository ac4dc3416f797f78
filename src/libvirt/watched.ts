import { readFileSync } from 'node:fs';

/**
 * Whether a libvirtd is connected to the controller of an lxc domain at this moment, as the kernel
 * lists it: see Domain.isWatched(). No daemon is asked.
 */
export function isWatchedNow(domain: string): boolean {
  // Also of the embedded daemon, in whose mount namespace the controller has bound it.
  const socket = `/run/libvirt/lxc/${domain}.sock`;
  // Num RefCount Protocol Flags Type St Inode Path; state 03 is SS_CONNECTED (linux/net.h).
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n');
  return lines.some((line) => line.endsWith(` ${socket}`) && line.split(/ +/)[5] === '03');
}
