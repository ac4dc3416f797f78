/** What runs in a confined child, and what it is given. Both sides of the pipe share these types. */
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { receivePacket, sendPacket } from '../sockets/unix-socket.ts';

/** Bounds on one confined child. All are enforced by the kernel or by the parent. */
export interface ConfinedLimits {
  /** Private writable memory, bytes (RLIMIT_DATA; Node itself takes about 150 MB of it). */
  readonly memory: number;
  /** Processor time, seconds (RLIMIT_CPU). */
  readonly cpuSeconds: number;
  /** The longest file it may write, bytes (RLIMIT_FSIZE). */
  readonly fileSize: number;
  /** From start to end by the clock, milliseconds; in a queue, from one message to the next. */
  readonly wallMs: number;
}

export const defaultLimits: ConfinedLimits = {
  memory: 1024 * 1024 * 1024,
  cpuSeconds: 600,
  fileSize: 256 * 1024 * 1024 * 1024,
  wallMs: 30 * 60 * 1000,
};

/** The parent's one message to the child, which knows its task from its command line. */
export interface ConfinedRequest {
  readonly input: unknown;
  /** Descriptors handed over, numbered from {@link FIRST_FD}. */
  readonly fdCount: number;
  /** {@link DESTINATION_FD} is a mount that becomes the root. */
  readonly destination: boolean;
  readonly limits: ConfinedLimits;
}

/** What the child may send back. */
export type ConfinedReply =
  | { readonly type: 'message'; readonly value: unknown }
  | { readonly type: 'answered'; readonly value: unknown }
  | { readonly type: 'answered'; readonly error: FlatError }
  | { readonly type: 'failed'; readonly error: FlatError }
  | { readonly type: 'done' };

/** An error with its chain of causes, outermost first, as plain data. */
export interface FlatError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly causes: readonly string[];
}

/**
 * Descriptors of the child: 0 is the request, 1 is /dev/null, 2 the log. Without a destination, the number of
 * the destination is not open, or is one of Node's own.
 */
export const REPLY_FD = 3;
export const USER_NAMESPACE_FD = 4;
export const DESTINATION_FD = 5;
export const FIRST_FD = 6;

export interface TaskContext {
  /** Descriptors the parent opened, in its order. The task owns them. */
  readonly fds: readonly number[];
  /** Sends a message to the parent; blocks while the parent does not read. */
  emit(value: unknown): void;
}

/**
 * A kind of work on untrusted bytes, done once.
 *
 * `prepare` runs before the child shuts itself in: it may load libraries and modules, and must not
 * touch untrusted bytes. `run` runs after: no path but those below the destination (or none at
 * all), no network, no new program, no new library.
 */
export interface SingleTask {
  prepare?(): Promise<void> | void;
  run(input: unknown, context: TaskContext): Promise<void> | void;
}

/** A task for a queue: `begin` is called once, and the function that it returns for each piece of work. */
export interface QueueTask {
  prepare?(): Promise<void> | void;
  begin(input: unknown): PerformWork;
}

/** Returns the answer for one piece of work, or throws what is wrong with that. */
export type PerformWork = (work: HandedWork, emit: TaskContext['emit']) => unknown;

type ConfinedTask = SingleTask | QueueTask;

/** Loads a task's module by name. */
export type TaskTable = Readonly<Record<string, () => Promise<{ readonly task: ConfinedTask }>>>;

/* Passes pieces of work, with their files, to a confined child through that child's own socket. */

/** Most bytes that describe one piece of work: a path of the longest kind, escaped. */
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
 * Sends one piece of work from the parent. Never waits: the socket has room for some dozens.
 * @throws a SyscallError where the kernel cannot pass it on (EAGAIN, EPIPE, ETOOMANYREFS)
 */
export function sendWork(socket: number, { input, fds }: HandedWork): void {
  const data = Buffer.from(JSON.stringify({ input, count: fds.length }));
  if (data.length > MAX_INPUT) throw new TypeError('that is too much to say of one piece of work');
  sendPacket(socket, data, fds);
}

/**
 * Takes the pieces of work in the child until no more will come.
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
