/**
 * Descriptors over unix sockets (SCM_RIGHTS), which Node's sockets drop.
 * Sources: unix(7), cmsg(3), sendmsg(2). All throw a SyscallError.
 */
import { closeDescriptor } from './descriptor.ts';
import { addon, checked, tryCall } from './system-call.ts';

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

/** The pid, in our pid namespace, of who listens at the other end of a connected socket. */
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

/** Receives one byte and the descriptor that came with it; undefined when none did. Blocks. */
export function receiveDescriptor(fd: number): number | undefined {
  return receivePacket(fd, 1, 1)?.fds[0];
}

/**
 * Sends `data` (not empty) with `fds`, 253 at most, as one message that is received as one or not at
 * all. EAGAIN when there is no room for it: never waits.
 */
export function sendPacket(fd: number, data: Buffer, fds: readonly number[]): void {
  checked('sendmsg', addon().sendMessage(fd, data, fds, MSG_NOSIGNAL | MSG_DONTWAIT));
}

/** What {@link receivePacket} got. */
export interface Packet {
  readonly data: Buffer;
  /** Close-on-exec. */
  readonly fds: readonly number[];
  /** All that was sent: neither cut off, nor a descriptor that the kernel could not pass on. */
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
