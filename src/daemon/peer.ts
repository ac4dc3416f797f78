import { constants as os } from 'node:os';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { addon, checked, tryCall } from '../host/calls/system-call.ts';
import { peerCredentials } from '../host/sockets/unix-socket.ts';
import { MSG_DONTWAIT, MSG_NOSIGNAL, READABLE, Watch, WRITABLE } from '../host/sockets/watch.ts';
import { FRAME } from './frames.ts';
import { closeStranger, lookAhead, seeAll } from './stranger.ts';
import { ThreadShare } from './thread-share.ts';

const SOL_SOCKET = 1;
const SO_PEERGROUPS = 59;
/** Since Linux 6.5. */
const SO_PEERPIDFD = 77;
const GROUPS_USUAL = 64;
const EMPTY = Buffer.alloc(0);

/** Its content is copied at once, because most messages are a few bytes. */
const piece = Buffer.allocUnsafeSlow(64 * 1024);

/** Of a user: what lies in it is handled at once, and frames are small. */
const userPiece = piece.subarray(0, 16 * 1024);

/** A peer that reads nothing for that long is given up. */
const UNSENT_MAX = 64 << 20;

/** Of unread bytes: the usual limit of arguments and environment (execve(2)). */
const USER_LIMIT = 2 << 20;

const DESCRIPTORS_MAX = 2 * FRAME.descriptors;

/** As the kernel reports it (SO_PEERCRED and SO_PEERGROUPS of unix(7)). */
export interface PeerIdentity {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** Of two callers with the same one, each may have what is left of the other in a process's memory. */
export function idsOf({ uid, gid, groups }: PeerIdentity): string {
  return [uid, gid, ...groups].join(':');
}

type Trusted = 'everybody' | 'root';

interface PeerEvents {
  /** Returns how many of the new and left bytes were taken. */
  readonly data: (bytes: Buffer) => number;
  readonly end: () => void;
}

/** The connection owns the descriptors until the message is sent. */
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
  /** Of a caller; other processes of the daemon's have none. */
  readonly #share: ThreadShare | undefined;
  #whenSent: (() => void)[] = [];
  readonly #limit: number;
  readonly #takesDescriptors: boolean;
  /** Lies in `#space`, which has room behind it: a stranger may send byte by byte. */
  #received: Buffer = EMPTY;
  #space: Buffer = EMPTY;
  #descriptors: number[] = [];
  #unsent: Unsent[] = [];
  unsentBytes = 0;
  ended = false;
  #endWhenSent = false;
  #paused = false;

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
    if (trusted === 'root') this.#share = ThreadShare.of(this.identity.uid);
    if (!this.#takesDescriptors) seeAll(fd);
    this.#watch = new Watch(fd, (ready) => this.#ready(ready));
    this.#watch.events = READABLE;
  }

  /**
   * A pidfd (pidfd_open(2)) of the process that connected, whose pid may have been reused; undefined if the process
   * has ended.
   */
  openProcess(): number | undefined {
    const found = Int32Array.of(-1);
    const length = Uint32Array.of(found.byteLength);
    const asked = tryCall('getsockopt', this.#fd, SOL_SOCKET, SO_PEERPIDFD, found, length);
    if (asked === 0) return found[0];
    if (asked !== -os.errno.ENOPROTOOPT) return undefined;
    const opened = tryCall('pidfd_open', this.identity.pid, 0);
    return opened < 0 ? undefined : opened;
  }

  sent(): Promise<void> {
    if (this.ended || this.#unsent.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenSent.push(resolve));
  }

  take(bytes: Buffer): void {
    if (bytes.length > 0) this.#deliver(bytes);
  }

  again(): void {
    if (!this.ended && this.#received.length > 0) this.#deliver(Buffer.alloc(0));
  }

  /** Reads nothing until then; the end of the connection is not noticed, either. */
  pause(until: Promise<void>): void {
    const goOn = () => {
      this.#paused = false;
      this.#watchOn();
    };
    this.#paused = true;
    this.#watchOn();
    until.then(goOn, goOn);
  }

  release(): { readonly fd: number; readonly rest: Buffer } {
    const rest = this.#received;
    this.ended = true;
    this.#watch.stop();
    for (const fd of this.#descriptors.splice(0)) closeDescriptor(fd);
    this.#events.end();
    return { fd: this.#fd, rest };
  }

  takeDescriptors(count: number): number[] | undefined {
    if (!this.#takesDescriptors) return [];
    return count > this.#descriptors.length ? undefined : this.#descriptors.splice(0, count);
  }

  /** `bytes` are not empty. Descriptors are closed once they are sent. */
  send(bytes: Buffer, fds: readonly number[] = []): void {
    if (this.ended || this.#endWhenSent) {
      for (const fd of fds) closeDescriptor(fd);
      return;
    }
    this.#share?.work();
    this.#unsent.push({ bytes, fds });
    this.unsentBytes += bytes.length;
    if (this.#unsent.length === 1) this.#flush();
    if (this.unsentBytes > UNSENT_MAX) this.destroy();
  }

  end(): void {
    this.#endWhenSent = true;
    if (this.#unsent.length === 0) this.destroy();
  }

  destroy(): void {
    if (this.ended) return;
    this.ended = true;
    this.#watch.stop();
    if (this.#takesDescriptors) closeDescriptor(this.#fd);
    else closeStranger(this.#fd);
    for (const fd of this.#descriptors.splice(0)) closeDescriptor(fd);
    for (const { fds } of this.#unsent.splice(0)) for (const fd of fds) closeDescriptor(fd);
    this.unsentBytes = 0;
    for (const resolve of this.#whenSent.splice(0)) resolve();
    this.#events.end();
  }

  #ready(events: number): void {
    if ((events & WRITABLE) !== 0) this.#flush();
    if ((events & READABLE) === 0 || this.ended) return;
    if (this.#share?.isUsedUp === true) this.pause(this.#share.room());
    else this.#receive();
  }

  #receive(): void {
    this.#share?.work();
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

  #receiveHarmless(): number {
    const length = lookAhead(this.#fd, userPiece);
    if (length === 'brings') return 0;
    // Not a byte more: a message with a descriptor may have arrived since.
    if (length > 0) {
      addon().receiveMessage(this.#fd, piece.subarray(0, length), [], 0, MSG_DONTWAIT);
    }
    return length;
  }

  #deliver(bytes: Buffer): void {
    let rest = this.#received.length === 0 ? bytes : this.#joined(bytes);
    for (let taken = 1; taken > 0 && rest.length > 0 && !this.ended; ) {
      taken = this.#events.data(rest);
      rest = rest.subarray(taken);
    }
    this.#received = rest;
    if (rest.length === 0) this.#space = EMPTY;
    if (rest.length > this.#limit) this.destroy();
  }

  #joined(bytes: Buffer): Buffer {
    const received = this.#received;
    const length = received.length + bytes.length;
    let start = received.byteOffset - this.#space.byteOffset;
    if (received.buffer !== this.#space.buffer || start + length > this.#space.length) {
      this.#space = Buffer.allocUnsafeSlow(2 * length);
      received.copy(this.#space);
      start = 0;
    }
    bytes.copy(this.#space, start + received.length);
    return this.#space.subarray(start, start + length);
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
      this.unsentBytes -= result;
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
  const credentials = peerCredentials(fd);
  return { ...credentials, groups: credentials.uid === 0 ? [] : peerGroups(fd) };
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
  checked('getsockopt', result);
  return [...groups.subarray(0, (length[0] ?? 0) / groups.BYTES_PER_ELEMENT)];
}
