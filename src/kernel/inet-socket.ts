/**
 * Connecting a socket that somebody else made, in whatever network it belongs to, or listening on it.
 * Sources: connect(2), bind(2), listen(2), ip(7), ipv6(7).
 */
import { hasErrno } from './libc.ts';
import { checked, tryCall } from './system-call.ts';

const AF_INET = 2;
const AF_INET6 = 10;

/** Connections that wait to be accepted. */
const BACKLOG = 128;

/**
 * Begins to connect a non-blocking stream socket to `port` of its own network's loopback: the
 * outcome shows at the first read or write. Throws a SyscallError when it fails at once.
 */
export function connectLoopback(fd: number, family: 'ipv4' | 'ipv6', port: number): void {
  const address = loopback(family, port);
  try {
    checked('connect', tryCall('connect', fd, address, address.length), `port ${port}`);
  } catch (error) {
    if (!hasErrno(error, 'EINPROGRESS')) throw error;
  }
}

/** Has an IPv4 stream socket take connections to `port` of its own network's loopback. */
export function listenLoopback(fd: number, port: number): void {
  const address = loopback('ipv4', port);
  checked('bind', tryCall('bind', fd, address, address.length), `port ${port}`);
  checked('listen', tryCall('listen', fd, BACKLOG), `port ${port}`);
}

/** struct sockaddr_in or sockaddr_in6. */
function loopback(family: 'ipv4' | 'ipv6', port: number): Buffer {
  const address = Buffer.alloc(family === 'ipv4' ? 16 : 28);
  address.writeUInt16LE(family === 'ipv4' ? AF_INET : AF_INET6, 0);
  address.writeUInt16BE(port, 2);
  if (family === 'ipv4') address.set([127, 0, 0, 1], 4);
  else address[23] = 1; // sin6_addr starts at 8
  return address;
}
