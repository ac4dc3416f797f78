/**
 * Descriptors over unix sockets (SCM_RIGHTS), which Node drops. Sources: unix(7), cmsg(3), sendmsg(2). All
 * throw a SyscallError.
 */
import { closeDescriptor } from '../calls/descriptor.ts';
import { hasErrno, unlessErrno } from '../calls/libc.ts';
import { addon, checked, tryCall } from '../calls/system-call.ts';
import { MSG_DONTWAIT, MSG_NOSIGNAL, READABLE, Watch } from './watch.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
const SOCK_SEQPACKET = 5;
export const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const MSG_CTRUNC = 0x8;
const MSG_TRUNC = 0x20;
const SUN_PATH_MAX = 107;

/**
 * How a connection fails where nobody listens, or no more: ECONNRESET where who listened ended before it accepted.
 * Node asks for that (SO_ERROR) when connect(2) has succeeded.
 */
export const NOBODY_LISTENS = ['ENOENT', 'ENOTDIR', 'ECONNREFUSED', 'ECONNRESET'] as const;

/** struct sockaddr_un of `path`, which has at most 107 bytes. */
export function unixAddress(path: string): Buffer {
  const name = Buffer.from(path);
  if (name.length > SUN_PATH_MAX) throw new TypeError(`socket path too long: ${path}`);
  const address = Buffer.alloc(2 + SUN_PATH_MAX + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}

export function unixSocket(type = SOCK_STREAM): number {
  return checked('socket', tryCall('socket', AF_UNIX, type | SOCK_CLOEXEC, 0));
}

/** The caller closes the descriptor. */
export function connectUnixSocket(path: string, type = SOCK_STREAM): number {
  const address = unixAddress(path);
  const fd = unixSocket(type);
  try {
    checked('connect', tryCall('connect', fd, address, address.length), path);
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
  return fd;
}

/** As the kernel reports it (SO_PEERCRED of unix(7)): `struct ucred`, whose ids have no sign. */
export function peerCredentials(fd: number) {
  const ucred = new Uint32Array(3);
  const length = Uint32Array.of(ucred.byteLength);
  checked('getsockopt', tryCall('getsockopt', fd, SOL_SOCKET, SO_PEERCRED, ucred, length));
  const [pid = 0, uid = 0, gid = 0] = ucred;
  return { pid, uid, gid };
}

export function unixPacketPair(): [number, number] {
  return unixSocketPair(SOCK_SEQPACKET);
}

export function unixSocketPair(type = SOCK_STREAM): [number, number] {
  const pair = new Int32Array(2);
  checked('socketpair', tryCall('socketpair', AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
  return [pair[0] as number, pair[1] as number];
}

/** A descriptor comes with one byte. Blocks. */
export function receiveDescriptor(fd: number): number | undefined {
  return receivePacket(fd, 1, 1)?.fds[0];
}

/** Sends `data` (not empty) with up to 253 `fds`, whole or not at all. EAGAIN where there is no room. */
export function sendPacket(fd: number, data: Buffer, fds: readonly number[]): void {
  checked('sendmsg', addon().sendMessage(fd, data, fds, MSG_NOSIGNAL | MSG_DONTWAIT));
}

interface Packet {
  readonly data: Buffer;
  readonly fds: readonly number[];
  readonly whole: boolean;
}

/** As receivePacket(), but the wait does not block this thread. */
export function nextPacket(fd: number, size: number, count: number): Promise<Packet | undefined> {
  return new Promise((resolve, reject) => {
    const watch = new Watch(fd, () => {
      try {
        const packet = receivePacket(fd, size, count, MSG_DONTWAIT);
        watch.stop();
        resolve(packet);
      } catch (error) {
        if (hasErrno(error, 'EAGAIN', 'EINTR')) return;
        watch.stop();
        reject(error);
      }
    });
    watch.events = READABLE;
  });
}

/** Up to `size` bytes and `count` descriptors (1 to 253); undefined when no more can come. By itself it blocks. */
export function receivePacket(
  fd: number,
  size: number,
  count: number,
  how = 0,
): Packet | undefined {
  const data = Buffer.alloc(size);
  const fds: number[] = [];
  const [result, flags] = addon().receiveMessage(fd, data, fds, count, how);
  const received = checked('recvmsg', result);
  if (received === 0 && fds.length === 0) return undefined;
  const whole = (flags & (MSG_CTRUNC | MSG_TRUNC)) === 0;
  return { data: data.subarray(0, received), fds, whole };
}

const AF_INET = 2;
const AF_INET6 = 10;

const BACKLOG = 128;

/** The network is the non-blocking socket's own. The result shows at the first read or write. */
export function connectLoopback(fd: number, family: 'ipv4' | 'ipv6', port: number): void {
  const address = loopback(family, port);
  unlessErrno(['EINPROGRESS'], () =>
    checked('connect', tryCall('connect', fd, address, address.length), `port ${port}`),
  );
}

/** The caller closes `fd`, which accepts connections. In a machine it does until this is disposed of. */
export interface Listener extends Disposable {
  readonly fd: number;
}

/** SOL_SOCKET and SO_REUSEADDR of asm-generic/socket.h. */
const REUSE = [1, 2] as const;

/** Listens although connections of the port's last listener may still be closing. */
export function listenLoopback(fd: number, port: number): void {
  const address = loopback('ipv4', port);
  const on = Buffer.from(Int32Array.of(1).buffer);
  checked('setsockopt', tryCall('setsockopt', fd, ...REUSE, on, on.length), `port ${port}`);
  checked('bind', tryCall('bind', fd, address, address.length), `port ${port}`);
  checked('listen', tryCall('listen', fd, BACKLOG), `port ${port}`);
}

function loopback(family: 'ipv4' | 'ipv6', port: number): Buffer {
  const address = Buffer.alloc(family === 'ipv4' ? 16 : 28);
  address.writeUInt16LE(family === 'ipv4' ? AF_INET : AF_INET6, 0);
  address.writeUInt16BE(port, 2);
  if (family === 'ipv4') address.set([127, 0, 0, 1], 4);
  else address[23] = 1;
  return address;
}
