/**
 * Open files on their way to confined children, in groups, while the children start and while they
 * work. All children of a handout take from one socket: whoever is free has the next group, and
 * nobody divides the work before it is known who is slow.
 *
 * A child that a file has taken over could take what was meant for another, as it can answer
 * wrongly for all that comes to itself: files that must not spoil each other need a handout each.
 */
import { KilnError } from '../errors.ts';
import { closeDescriptor } from '../kernel/descriptor.ts';
import { receivePacket, sendPacket, unixPacketPair } from '../kernel/unix-socket.ts';

/** Files in one group at most; the kernel would take 253. */
export const MAX_GROUP = 100;

/** Bytes of an index. */
const INDEX = 4;

/** A file and the number that the parent knows it by. */
export interface HandedFile {
  readonly index: number;
  readonly fd: number;
}

/** The parent's side. Disposing of it, or ending it, lets the children see that no more will come. */
export class Handout implements Disposable {
  readonly #ours: number;
  /** What a child is started with. */
  readonly childEnd: number;
  #ended = false;
  #disposed = false;

  constructor() {
    [this.#ours, this.childEnd] = unixPacketPair();
  }

  /**
   * Hands over one group, at most {@link MAX_GROUP}; the descriptors stay the caller's. Never waits:
   * there is room for some dozens of groups that nobody has taken yet.
   * @throws a SyscallError where the kernel cannot pass one on (EAGAIN, ETOOMANYREFS)
   */
  hand(files: readonly HandedFile[]): void {
    const data = Buffer.alloc(files.length * INDEX);
    for (const [place, { index }] of files.entries()) data.writeUInt32LE(index, place * INDEX);
    sendPacket(
      this.#ours,
      data,
      files.map(({ fd }) => fd),
    );
  }

  /** No more will come. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    closeDescriptor(this.#ours);
  }

  [Symbol.dispose](): void {
    this.end();
    if (this.#disposed) return;
    this.#disposed = true;
    closeDescriptor(this.childEnd);
  }
}

/**
 * The child's side: groups as they come, until no more will.
 * @throws KilnError E_CONFINE_PROTOCOL when a descriptor was lost on the way
 */
export function* takeHanded(socket: number): Generator<readonly HandedFile[], void, undefined> {
  for (;;) {
    const packet = receivePacket(socket, MAX_GROUP * INDEX, MAX_GROUP);
    if (packet === undefined) return;
    const { data, fds, whole } = packet;
    if (!whole || data.length !== fds.length * INDEX) {
      throw new KilnError('E_CONFINE_PROTOCOL', 'a descriptor did not come');
    }
    yield fds.map((fd, place) => ({ index: data.readUInt32LE(place * INDEX), fd }));
  }
}
