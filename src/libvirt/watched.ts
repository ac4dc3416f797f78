import { readFile } from 'node:fs/promises';

/**
 * Whether a libvirtd is connected to the controller of an lxc domain at this moment, as the kernel
 * lists it: see Domain.isWatched(). No daemon is asked.
 */
export async function isWatchedNow(domain: string): Promise<boolean> {
  // Also of the embedded daemon, in whose mount namespace the controller has bound it.
  const socket = `/run/libvirt/lxc/${domain}.sock`;
  // Num RefCount Protocol Flags Type St Inode Path; state 03 is SS_CONNECTED (linux/net.h).
  const lines = (await readFile('/proc/net/unix', 'latin1')).split('\n');
  const words = lines.map((line) => line.split(/ +/));
  return words.some((columns) => columns[5] === '03' && columns[7] === socket);
}
