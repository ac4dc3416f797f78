/**
 * Descriptors over unix sockets (SCM_RIGHTS), which Node's sockets drop.
 * Sources: unix(7), cmsg(3), sendmsg(2). All throw a SyscallError.
 */
import { BlockList, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { closeDescriptor } from '../calls/descriptor.ts';
import { hasErrno } from '../calls/libc.ts';
import { addon, checked, tryCall } from '../calls/system-call.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const MSG_DONTWAIT = 0x40;
const MSG_CTRUNC = 0x8;
const MSG_TRUNC = 0x20;
const MSG_NOSIGNAL = 0x4000;
const SUN_PATH_MAX = 107;

/** Connects to the stream socket at `path` (at most 107 bytes). The caller closes the descriptor. */
export function connectUnixSocket(path: string): number {
  const name = Buffer.from(path);
  if (name.length > SUN_PATH_MAX) throw new TypeError(`socket path too long: ${path}`);
  const address = Buffer.alloc(2 + SUN_PATH_MAX + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  const fd = checked('socket', tryCall('socket', AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  try {
    checked('connect', tryCall('connect', fd, address, address.length), path);
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
  return fd;
}

/**
 * The pid, in this process's pid namespace, of the process that listens at the other end of a connected socket.
 */
export function peerPid(fd: number): number {
  const credentials = Buffer.alloc(12); // struct ucred { pid, uid, gid }
  const length = Uint32Array.of(credentials.length);
  const result = tryCall('getsockopt', fd, SOL_SOCKET, SO_PEERCRED, credentials, length);
  checked('getsockopt', result);
  return credentials.readInt32LE(0);
}

/** Two connected stream sockets, close-on-exec. */
export function unixSocketPair(): [number, number] {
  return socketPair(SOCK_STREAM);
}

/** Two connected sockets that keep the bounds of messages, close-on-exec. */
export function unixPacketPair(): [number, number] {
  return socketPair(SOCK_SEQPACKET);
}

function socketPair(type: number): [number, number] {
  const pair = new Int32Array(2);
  checked('socketpair', tryCall('socketpair', AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
  return [pair[0] as number, pair[1] as number];
}

/** Receives one byte and the descriptor sent with it; undefined if there was none. Blocks. */
export function receiveDescriptor(fd: number): number | undefined {
  return receivePacket(fd, 1, 1)?.fds[0];
}

/**
 * Sends `data` (not empty) with up to 253 `fds` as one message, whole or not at all. Fails with EAGAIN instead
 * of waiting for room.
 */
export function sendPacket(fd: number, data: Buffer, fds: readonly number[]): void {
  checked('sendmsg', addon().sendMessage(fd, data, fds, MSG_NOSIGNAL | MSG_DONTWAIT));
}

/** What {@link receivePacket} got. */
interface Packet {
  readonly data: Buffer;
  /** Close-on-exec. */
  readonly fds: readonly number[];
  /**
   * Whether the message is complete: neither cut off nor missing a descriptor that the kernel could not pass
   * on.
   */
  readonly whole: boolean;
}

/**
 * Receives a message of up to `size` bytes and `count` descriptors (1 to 253); undefined when no more can come.
 * Waits, blocking this thread.
 */
export function receivePacket(fd: number, size: number, count: number): Packet | undefined {
  const data = Buffer.alloc(size);
  const fds: number[] = [];
  const [result, flags] = addon().receiveMessage(fd, data, fds, count, 0);
  const received = checked('recvmsg', result);
  if (received === 0 && fds.length === 0) return undefined;
  const whole = (flags & (MSG_CTRUNC | MSG_TRUNC)) === 0;
  return { data: data.subarray(0, received), fds, whole };
}

/*
 * Connects or listens on a socket that another process made, in the network that the socket belongs to.
 * Sources: connect(2), bind(2), listen(2), ip(7), ipv6(7).
 */

const AF_INET = 2;
const AF_INET6 = 10;

/** Connections that wait to be accepted. */
const BACKLOG = 128;

/**
 * Begins to connect a non-blocking stream socket to `port` on the loopback of its own network. The result shows
 * at the first read or write. Throws a SyscallError if it fails at once.
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

/**
 * Addresses that are not on the public Internet, by IANA's registries of special addresses: this host, its
 * network, its cloud's metadata. Of IPv6, everything that is not global unicast (2000::/3) or that embeds an
 * IPv4 address.
 */
const SPECIAL_IPV4 = [
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16'],
  ...['172.16.0.0/12', '192.0.0.0/24', '192.0.2.0/24', '192.88.99.0/24', '192.168.0.0/16'],
  ...['198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/4', '240.0.0.0/4'],
];
const SPECIAL_IPV6 = ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'];

function blockList(subnets: readonly string[], family: 'ipv4' | 'ipv6'): BlockList {
  const list = new BlockList();
  for (const subnet of subnets) {
    const [address = '', prefix] = subnet.split('/');
    list.addSubnet(address, Number(prefix), family);
  }
  return list;
}

const special4 = blockList(SPECIAL_IPV4, 'ipv4');
const special6 = blockList(SPECIAL_IPV6, 'ipv6');
const global6 = blockList(['2000::/3'], 'ipv6');

/** Whether an address is on the public Internet: not this host's, not of a private network, not special. */
export function isPublicAddress(address: string): boolean {
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  if (own.some((one) => one.address === address)) return false;
  if (isIP(address) === 4) return !special4.check(address, 'ipv4');
  if (isIP(address) !== 6 || address.includes('%')) return false;
  return global6.check(address, 'ipv6') && !special6.check(address, 'ipv6');
}
