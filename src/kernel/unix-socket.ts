/**
 * Descriptors over unix sockets (SCM_RIGHTS), which Node's sockets drop.
 * Sources: unix(7), cmsg(3), sendmsg(2). All throw a SyscallError.
 */
import koffi from 'koffi';
import { closeDescriptor } from './descriptor.ts';
import { checked, hasErrno, libc } from './libc.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_PEERCRED = 17;
const MSG_DONTWAIT = 0x40;
const MSG_CTRUNC = 0x8;
const MSG_TRUNC = 0x20;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const POLLOUT = 4;
/** sizeof(struct cmsghdr), and the alignment of what follows, on 64-bit Linux. */
const CMSG_HEADER = 16;
const SUN_PATH_MAX = 107;

const call = {
  socket: libc.func('int socket(int domain, int type, int protocol)'),
  connect: libc.func('int connect(int fd, const void *address, unsigned int length)'),
  socketpair: libc.func('int socketpair(int domain, int type, int protocol, void *pair)'),
  sendmsg: libc.func('long sendmsg(int fd, const void *message, int flags)'),
  recvmsg: libc.func('long recvmsg(int fd, void *message, int flags)'),
  poll: libc.func('int poll(void *fds, unsigned long count, int timeout)'),
  getsockopt: libc.func('int getsockopt(int fd, int level, int name, void *value, void *length)'),
};

/** Connects to the stream socket at `path` (at most 107 bytes). The caller closes the descriptor. */
export function connectUnixSocket(path: string): number {
  const name = Buffer.from(path);
  if (name.length > SUN_PATH_MAX) throw new TypeError(`socket path too long: ${path}`);
  const address = Buffer.alloc(2 + SUN_PATH_MAX + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  const fd = checked('socket', call.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  try {
    checked('connect', call.connect(fd, address, address.length), path);
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
  checked('getsockopt', call.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length));
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
  checked('socketpair', call.socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
  return [pair[0] as number, pair[1] as number];
}

/** struct msghdr with one iovec, kept alive together with what it points to. */
interface Message {
  readonly header: Buffer;
  /** Everything `header` points to: the garbage collector must not take it during the call. */
  readonly keep: readonly Buffer[];
}

function message(data: Buffer, control: Buffer): Message {
  const iov = Buffer.alloc(16);
  iov.writeBigUInt64LE(koffi.address(data), 0);
  iov.writeBigUInt64LE(BigInt(data.length), 8);
  const header = Buffer.alloc(56);
  header.writeBigUInt64LE(koffi.address(iov), 16);
  header.writeBigUInt64LE(1n, 24);
  if (control.length > 0) {
    header.writeBigUInt64LE(koffi.address(control), 32);
    header.writeBigUInt64LE(BigInt(control.length), 40);
  }
  return { header, keep: [iov, data, control] };
}

function rights(fds: readonly number[]): Buffer {
  if (fds.length === 0) return Buffer.alloc(0);
  const length = CMSG_HEADER + 4 * fds.length;
  const control = Buffer.alloc(Math.ceil(length / 8) * 8);
  control.writeBigUInt64LE(BigInt(length), 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  fds.forEach((fd, i) => {
    control.writeInt32LE(fd, CMSG_HEADER + 4 * i);
  });
  return control;
}

/**
 * Writes all of `data` (not empty) and sends `fds` along with its first byte. Waits, blocking this
 * thread, while the socket is full: for short messages to a peer that reads at once.
 */
export function sendWithDescriptors(fd: number, data: Buffer, fds: readonly number[]): void {
  for (let done = 0; done < data.length; ) {
    const { header, keep } = message(data.subarray(done), rights(done === 0 ? fds : []));
    try {
      done += checked('sendmsg', Number(call.sendmsg(fd, header, MSG_NOSIGNAL)));
    } catch (error) {
      if (hasErrno(error, 'EAGAIN')) waitWritable(fd);
      else if (!hasErrno(error, 'EINTR')) throw error;
    }
    keep.at(0); // referenced until here
  }
}

function waitWritable(fd: number): void {
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  entry.writeInt16LE(POLLOUT, 4);
  call.poll(entry, 1, 1000);
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
  const { header, keep } = message(data, rights(fds));
  checked('sendmsg', Number(call.sendmsg(fd, header, MSG_NOSIGNAL | MSG_DONTWAIT)));
  keep.at(0); // referenced until here
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
 * Receives a message of up to `size` bytes and `count` descriptors; undefined when no more can come.
 * Waits, blocking this thread.
 */
export function receivePacket(fd: number, size: number, count: number): Packet | undefined {
  const data = Buffer.alloc(size);
  const control = Buffer.alloc(Math.ceil((CMSG_HEADER + 4 * count) / 8) * 8);
  const { header, keep } = message(data, control);
  const received = checked('recvmsg', Number(call.recvmsg(fd, header, MSG_CMSG_CLOEXEC)));
  keep.at(0);
  const controlLength = Number(header.readBigUInt64LE(40));
  if (received === 0 && controlLength === 0) return undefined;
  const fds: number[] = [];
  if (controlLength >= CMSG_HEADER) {
    const end = Number(control.readBigUInt64LE(0));
    for (let at = CMSG_HEADER; at + 4 <= end; at += 4) fds.push(control.readInt32LE(at));
  }
  const whole = (header.readInt32LE(48) & (MSG_CTRUNC | MSG_TRUNC)) === 0;
  return { data: data.subarray(0, received), fds, whole };
}
