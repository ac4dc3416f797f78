/**
 * Connections of users to the daemon's own thread. What comes with a message (SCM_RIGHTS) can hold up whoever lets go
 * of it last for as long as the sender likes: a socket that lingers (SO_LINGER of socket(7)) waits for its own peer. The
 * kernel lets go of it where the message is received without it, and where a connection is closed that nobody has
 * read to its end. So messages are looked at first, and a connection on which such a one waits is closed by a
 * process that ends: the kernel has none linger that does.
 */
import { constants as os } from 'node:os';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { addon, tryCall } from '../host/calls/system-call.ts';
import { startProgram } from '../host/process/child-process.ts';
import { MSG_DONTWAIT } from '../host/sockets/watch.ts';

const MSG_PEEK = 0x2;
const MSG_CTRUNC = 0x8;
const SHUT_RD = 0;
const SOL_SOCKET = 1;
const SO_OOBINLINE = 10;

/** How long (ms) connections are collected for one process, and the most for one. */
const COLLECTING = 50;
const AT_ONCE = 64;

const piece = Buffer.allocUnsafeSlow(64 * 1024);

/** Urgent bytes can carry descriptors, too, and would not be seen otherwise. */
export function seeAll(fd: number): void {
  tryCall('setsockopt', fd, SOL_SOCKET, SO_OOBINLINE, Uint32Array.of(1), 4);
}

/**
 * Bytes without descriptors, at most those of `into`; `brings` if a message with descriptors comes first. 0
 * at the end, or -errno. Takes nothing.
 */
export function lookAhead(fd: number, into: Buffer): number | 'brings' {
  const [length, flags] = addon().receiveMessage(fd, into, [], 0, MSG_DONTWAIT | MSG_PEEK);
  return length > 0 && (flags & MSG_CTRUNC) !== 0 ? 'brings' : length;
}

export function closeStranger(fd: number): void {
  // Nothing more arrives from now on.
  tryCall('shutdown', fd, SHUT_RD);
  for (;;) {
    const length = lookAhead(fd, piece);
    if (length === -os.errno.EINTR) continue;
    if (length === 'brings') {
      leave(fd);
      return;
    }
    if (length <= 0) break;
    addon().receiveMessage(fd, piece.subarray(0, length), [], 0, MSG_DONTWAIT);
  }
  closeDescriptor(fd);
}

let left: number[] = [];

function leave(fd: number): void {
  left.push(fd);
  if (left.length === 1) setTimeout(closeElsewhere, COLLECTING).unref();
}

function closeElsewhere(): void {
  const fds = left.splice(0, AT_ONCE);
  try {
    // It ends with its input, after they are closed here.
    const child = startProgram('/bin/sh', ['-c', 'read -r _'], {
      ...{ cwd: '/', env: {}, detached: true },
      stdio: ['pipe', 'ignore', 'ignore', ...fds],
    });
    child.on('error', () => undefined).unref();
    if (child.pid === undefined) left = [...fds, ...left];
    else for (const fd of fds) closeDescriptor(fd);
    child.stdin?.on('error', () => undefined).end();
  } catch {
    // Keep too many descriptors rather than close one that blocks everybody.
    left = [...fds, ...left];
  }
  if (left.length > 0) setTimeout(closeElsewhere, COLLECTING).unref();
}
