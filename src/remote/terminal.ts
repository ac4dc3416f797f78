/** A terminal for a command of another machine's. Sources: ioctl_tty(2), pts(4). */
import { constants, openSync } from 'node:fs';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';

/** asm-generic/ioctls.h. */
const TIOCSPTLCK = 0x40045431;
const TIOCGPTPEER = 0x5441;
const TIOCSWINSZ = 0x5414;

/** Both ends of a new terminal: what types to it, and what its command has. @throws SyscallError */
export function openTerminal(): { readonly master: number; readonly slave: number } {
  const flags = constants.O_RDWR | constants.O_NOCTTY;
  const master = openSync('/dev/ptmx', flags);
  try {
    checked('ioctl', tryCall('ioctl', master, TIOCSPTLCK, Int32Array.of(0)));
    return { master, slave: checked('ioctl', tryCall('ioctl', master, TIOCGPTPEER, flags)) };
  } catch (error) {
    closeDescriptor(master);
    throw error;
  }
}

/** Sets a terminal's size, which its command is told of. */
export function resizeTerminal(master: number, rows: number, columns: number): void {
  // struct winsize; what is no size is none.
  const size = Uint16Array.of(rows & 0xffff, columns & 0xffff, 0, 0);
  tryCall('ioctl', master, TIOCSWINSZ, size);
}
