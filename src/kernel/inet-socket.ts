/**
 * Connecting a socket that somebody else made, in whatever network it belongs to.
 * Sources: connect(2), ip(7), ipv6(7).
 */
import { checked, hasErrno, libc } from './libc.ts';

const AF_INET = 2;
const AF_INET6 = 10;

const connect = libc.func('int connect(int fd, const void *address, unsigned int length)');

/**
 * Begins to connect a non-blocking stream socket to `port` of its own network's loopback: the
 * outcome shows at the first read or write. Throws a SyscallError when it fails at once.
 */
export function connectLoopback(fd: number, family: 'ipv4' | 'ipv6', port: number): void {
  const address = Buffer.alloc(family === 'ipv4' ? 16 : 28);
  address.writeUInt16LE(family === 'ipv4' ? AF_INET : AF_INET6, 0);
  address.writeUInt16BE(port, 2);
  if (family === 'ipv4') address.set([127, 0, 0, 1], 4);
  else address[23] = 1; // sin6_addr starts at 8
  try {
    checked('connect', connect(fd, address, address.length), `port ${port}`);
  } catch (error) {
    if (!hasErrno(error, 'EINPROGRESS')) throw error;
  }
}
