/** Pieces of work on their way to a confined child, with their files, through a socket of that child's own. */
import { KilnError } from '../errors.ts';
import { receivePacket, sendPacket } from '../kernel/unix-socket.ts';

/** Bytes that may be said of one piece of work: a path of the longest kind, escaped. */
const MAX_INPUT = 32 * 1024;

/** Files of one piece of work at most; the kernel would take 253. */
export const MAX_FILES = 20;

/** One piece of work as the child gets it. */
export interface HandedWork {
  /** JSON for the task. */
  readonly input: unknown;
  /** The open files that it is about; closed once it is answered for. */
  readonly fds: readonly number[];
}

/**
 * The parent's side. Never waits: there is room for some dozens that the child has not taken yet.
 * @throws a SyscallError where the kernel cannot pass it on (EAGAIN, EPIPE, ETOOMANYREFS)
 */
export function sendWork(socket: number, { input, fds }: HandedWork): void {
  const data = Buffer.from(JSON.stringify({ input, count: fds.length }));
  if (data.length > MAX_INPUT) throw new TypeError('that is too much to say of one piece of work');
  sendPacket(socket, data, fds);
}

/**
 * The child's side: what comes, until no more will.
 * @throws KilnError E_CONFINE_PROTOCOL when a descriptor was lost on the way
 */
export function* takeWork(socket: number): Generator<HandedWork, void, undefined> {
  for (;;) {
    const packet = receivePacket(socket, MAX_INPUT, MAX_FILES);
    if (packet === undefined) return;
    const { fds, whole, data } = packet;
    const { input, count } = JSON.parse(data.toString()) as { input: unknown; count: number };
    if (!whole || fds.length !== count) {
      throw new KilnError('E_CONFINE_PROTOCOL', 'a descriptor did not come');
    }
    yield { input, fds };
  }
}
