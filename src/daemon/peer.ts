/** A connection of the daemon's: bytes and descriptors in order, in both directions, without blocking. */
import { constants as os } from 'node:os';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { SyscallError } from '../host/calls/libc.ts';
import { addon, tryCall } from '../host/calls/system-call.ts';
import { READABLE, Watch, WRITABLE } from '../host/sockets/watch.ts';
import { FRAME } from './frames.ts';
import { closeStranger, lookAhead, seeAll } from './stranger.ts';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_PEERGROUPS = 59;
/** More groups than most users have. */
const GROUPS_USUAL = 64;

/** The buffer for receiving. Its content is copied at once, because most messages are a few bytes. */
const piece = Buffer.allocUnsafeSlow(64 * 1024);

/** The most unsent bytes: a peer that reads nothing for that long is given up. */
const UNSENT_MAX = 64 << 20;

/** The most unread bytes of a user: the usual limit of arguments and environment (execve(2)). */
const USER_LIMIT = 2 << 20;

/** Descriptors that may arrive before their frame is complete. */
const DESCRIPTORS_MAX = 2 * FRAME.descriptors;

/** The process at the other end, as the kernel reports it (SO_PEERCRED and SO_PEERGROUPS of unix(7)). */
export interface PeerIdentity {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /** Its further groups; not looked up for root, who needs none. */
  readonly groups: readonly number[];
}

/** Whose descriptors are accepted. Others' never reach this process, see {@link Peer}. */
type Trusted = 'everybody' | 'root';

interface PeerEvents {
  /** Called with new and left bytes. Returns how many were taken. */
  readonly data: (bytes: Buffer) => number;
  /** Called once when the connection is over for any reason. */
  readonly end: () => void;
}

/** A message that waits to be sent. The connection owns its descriptors until then. */
interface Unsent {
  bytes: Buffer;
  fds: readonly number[];
}

/**
 * A stranger's descriptor can block whoever closes it, without end: closing tells the file system, and a user
 * can be one (FUSE). The daemon's own process has many callers, so it accepts descriptors from root only. A
 * user who sends one is not heard any more, see stranger.ts.
 */
export class Peer {
  readonly identity: PeerIdentity;
  readonly #fd: number;
  readonly #watch: Watch;
  readonly #events: PeerEvents;
  #whenSent: (() => void)[] = [];
  /** The most untaken bytes. */
  readonly #limit: number;
  readonly #takesDescriptors: boolean;
  #received: Buffer = Buffer.alloc(0);
  #descriptors: number[] = [];
  #unsent: Unsent[] = [];
  #unsentBytes = 0;
  #ended = false;
  #endWhenSent = false;
  #paused = false;

  /** @param fd a connected socket, which is this peer's from here on */
  constructor(
    fd: number,
    events: PeerEvents,
    { limit = FRAME.header + FRAME.max, trusted }: { limit?: number; trusted: Trusted },
  ) {
    this.#fd = fd;
    this.#events = events;
    this.identity = peerIdentity(fd);
    const isUser = this.identity.uid !== 0;
    this.#limit = isUser ? Math.min(limit, USER_LIMIT) : limit;
    this.#takesDescriptors = !isUser || trusted === 'everybody';
    if (!this.#takesDescriptors) seeAll(fd);
    this.#watch = new Watch(fd, (ready) => this.#ready(ready));
    this.#watch.events = READABLE;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Bytes that are not sent yet. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** Resolves when everything is sent, or the connection is over. */
  sent(): Promise<void> {
    if (this.#ended || this.#unsent.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenSent.push(resolve));
  }

  /** Handles bytes as if they had just arrived, before newer ones. */
  take(bytes: Buffer): void {
    if (bytes.length > 0) this.#deliver(bytes);
  }

  /** Offers the untaken bytes again. */
  again(): void {
    if (!this.#ended && this.#received.length > 0) this.#deliver(Buffer.alloc(0));
  }

  /** While `paused`, nothing is received, and the end of the connection is not noticed. */
  set paused(paused: boolean) {
    this.#paused = paused;
    if (!this.#ended) this.#watchOn();
  }

  /** Gives up the connection to another owner, with the untaken bytes. */
  release(): { readonly fd: number; readonly rest: Buffer } {
    const rest = this.#received;
    this.#ended = true;
    this.#watch.stop();
    for (const fd of this.#descriptors.splice(0)) closeDescriptor(fd);
    this.#events.end();
    return { fd: this.#fd, rest };
  }

  /**
   * Takes `count` descriptors of the frame being read; undefined if fewer arrived. None from a peer whose
   * descriptors are not accepted.
   */
  takeDescriptors(count: number): number[] | undefined {
    if (!this.#takesDescriptors) return [];
    return count > this.#descriptors.length ? undefined : this.#descriptors.splice(0, count);
  }

  /** Sends bytes (not empty) with descriptors, which are closed once they are sent. */
  send(bytes: Buffer, fds: readonly number[] = []): void {
    if (this.#ended || this.#endWhenSent) {
      for (const fd of fds) closeDescriptor(fd);
      return;
    }
    this.#unsent.push({ bytes, fds });
    this.#unsentBytes += bytes.length;
    if (this.#unsent.length === 1) this.#flush();
    if (this.#unsentBytes > UNSENT_MAX) this.destroy();
  }

  /** Ends the connection after everything is sent. */
  end(): void {
    this.#endWhenSent = true;
    if (this.#unsent.length === 0) this.destroy();
  }

  /** Ends the connection now. */
  destroy(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watch.stop();
    if (this.#takesDescriptors) closeDescriptor(this.#fd);
    else closeStranger(this.#fd);
    for (const fd of this.#descriptors.splice(0)) closeDescriptor(fd);
    for (const { fds } of this.#unsent.splice(0)) for (const fd of fds) closeDescriptor(fd);
    this.#unsentBytes = 0;
    for (const resolve of this.#whenSent.splice(0)) resolve();
    this.#events.end();
  }

  #ready(events: number): void {
    if ((events & WRITABLE) !== 0) this.#flush();
    if ((events & READABLE) !== 0 && !this.#ended) this.#receive();
  }

  #receive(): void {
    const fds: number[] = [];
    const result = this.#takesDescriptors ? this.#receiveAll(fds) : this.#receiveHarmless();
    this.#descriptors.push(...fds);
    if (result === -os.errno.EAGAIN || result === -os.errno.EINTR) return;
    if (result <= 0 || this.#descriptors.length > DESCRIPTORS_MAX) {
      this.destroy();
      return;
    }
    this.#deliver(Buffer.from(piece.subarray(0, result)));
  }

  #receiveAll(fds: number[]): number {
    return addon().receiveMessage(this.#fd, piece, fds, FRAME.descriptors, MSG_DONTWAIT)[0];
  }

  /** Receives bytes without descriptors; 0 if a message has some. */
  #receiveHarmless(): number {
    const length = lookAhead(this.#fd, piece);
    if (length === 'brings') return 0;
    // Not a byte more: a message with a descriptor may have arrived since.
    if (length > 0) {
      addon().receiveMessage(this.#fd, piece.subarray(0, length), [], 0, MSG_DONTWAIT);
    }
    return length;
  }

  #deliver(bytes: Buffer): void {
    let rest = this.#received.length === 0 ? bytes : Buffer.concat([this.#received, bytes]);
    for (let taken = 1; taken > 0 && rest.length > 0 && !this.#ended; ) {
      taken = this.#events.data(rest);
      rest = rest.subarray(taken);
    }
    this.#received = rest;
    if (rest.length > this.#limit) this.destroy();
  }

  #flush(): void {
    for (let next = this.#unsent[0]; next !== undefined; next = this.#unsent[0]) {
      const { bytes, fds } = next;
      const result = addon().sendMessage(this.#fd, bytes, fds, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (result === -os.errno.EAGAIN) {
        this.#watchOn();
        return;
      }
      if (result === -os.errno.EINTR) continue;
      if (result < 0) {
        this.destroy();
        return;
      }
      for (const fd of fds) closeDescriptor(fd);
      this.#unsentBytes -= result;
      if (result === bytes.length) this.#unsent.shift();
      else this.#unsent[0] = { bytes: bytes.subarray(result), fds: [] };
    }
    this.#watchOn();
    for (const resolve of this.#whenSent.splice(0)) resolve();
    if (this.#endWhenSent) this.destroy();
  }

  #watchOn(): void {
    const readable = this.#paused ? 0 : READABLE;
    this.#watch.events = this.#unsent.length > 0 ? readable | WRITABLE : readable;
  }
}

function peerIdentity(fd: number): PeerIdentity {
  const credentials = Buffer.alloc(12); // struct ucred { pid, uid, gid }
  const length = Uint32Array.of(credentials.length);
  const result = tryCall('getsockopt', fd, SOL_SOCKET, SO_PEERCRED, credentials, length);
  if (result < 0) throw new SyscallError('getsockopt', -result);
  const uid = credentials.readUInt32LE(4);
  return {
    pid: credentials.readInt32LE(0),
    uid,
    gid: credentials.readUInt32LE(8),
    groups: uid === 0 ? [] : peerGroups(fd),
  };
}

function peerGroups(fd: number): number[] {
  let groups = new Uint32Array(GROUPS_USUAL);
  const length = Uint32Array.of(groups.byteLength);
  let result = tryCall('getsockopt', fd, SOL_SOCKET, SO_PEERGROUPS, groups, length);
  if (result === -os.errno.ERANGE) {
    // The kernel tells how many bytes it needs.
    groups = new Uint32Array((length[0] ?? 0) / groups.BYTES_PER_ELEMENT);
    result = tryCall('getsockopt', fd, SOL_SOCKET, SO_PEERGROUPS, groups, length);
  }
  if (result < 0) throw new SyscallError('getsockopt', -result);
  return [...groups.subarray(0, (length[0] ?? 0) / groups.BYTES_PER_ELEMENT)];
}
