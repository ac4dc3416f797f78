import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { receivePacket, sendPacket } from '../sockets/unix-socket.ts';

export interface ConfinedLimits {
  /** Private writable memory, bytes (RLIMIT_DATA; Node itself takes about 150 MB of it). */
  readonly memory: number;
  /** Seconds (RLIMIT_CPU). */
  readonly cpuSeconds: number;
  readonly fileSize: number;
  /** Descriptors beside those that it gets. */
  readonly files: number;
  /** Milliseconds from start to end; in a queue, from one message to the next. */
  readonly wallMs: number;
}

export const defaultLimits: ConfinedLimits = {
  memory: 1024 * 1024 * 1024,
  cpuSeconds: 600,
  fileSize: 256 * 1024 * 1024 * 1024,
  files: 64,
  wallMs: 30 * 60 * 1000,
};

/** Descriptors of a child that holds each folder on its way down, in several layers. */
export const DEEP = 1 << 14;

export interface ConfinedRequest {
  readonly input: unknown;
  readonly fdCount: number;
  readonly destination: boolean;
  readonly limits: ConfinedLimits;
  /** The system calls that the child may make: see filter.ts. */
  readonly filter: string;
}

export type ConfinedReply =
  | { readonly type: 'message'; readonly value: unknown }
  | { readonly type: 'answered'; readonly value: unknown }
  | { readonly type: 'answered'; readonly error: FlatError }
  /** How much the child has done: see work.ts. */
  | { readonly type: 'progress'; readonly done: number }
  /** A queue's child has read what all its work has in common, such as keys. */
  | { readonly type: 'begun' }
  | { readonly type: 'failed'; readonly error: FlatError }
  | { readonly type: 'done' };

export interface FlatError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly causes: readonly string[];
}

/** 0 is the request, 1 /dev/null, 2 the log. Without a destination its number is not open, or is one of Node's. */
export const REQUEST_FD = 0;
export const REPLY_FD = 3;
export const USER_NAMESPACE_FD = 4;
export const DESTINATION_FD = 5;
export const FIRST_FD = 6;

export interface TaskContext {
  readonly fds: readonly number[];
  emit(value: unknown): void;
}

/**
 * Work on untrusted bytes, done once.
 * `prepare` runs before the child shuts itself in: it may load libraries, and must not touch untrusted bytes.
 * `run` runs after: no path but those below the destination, no network, no new program or library.
 */
export interface SingleTask {
  prepare?(): Promise<void> | void;
  run(input: unknown, context: TaskContext): Promise<void> | void;
}

/** `begin` is called once, and what it returns for each piece of work. */
export interface QueueTask {
  prepare?(): Promise<void> | void;
  begin(input: unknown): PerformWork;
}

export type PerformWork = (work: HandedWork, emit: TaskContext['emit']) => unknown;

type ConfinedTask = SingleTask | QueueTask;

export type TaskTable = Readonly<Record<string, () => Promise<{ readonly task: ConfinedTask }>>>;

/** Bytes: a path of the longest kind, escaped. */
const MAX_INPUT = 32 * 1024;

export const MAX_FILES = 20;

export interface HandedWork {
  readonly input: unknown;
  readonly fds: readonly number[];
}

/** Never waits: the socket has room for some dozens. @throws SyscallError EAGAIN, EPIPE, ETOOMANYREFS */
export function sendWork(socket: number, { input, fds }: HandedWork): void {
  const data = Buffer.from(JSON.stringify({ input, count: fds.length }));
  if (data.length > MAX_INPUT) throw new TypeError('that is too much to say of one piece of work');
  sendPacket(socket, data, fds);
}

/** Ends when no more work will come. @throws KilnError E_CONFINE_PROTOCOL when a descriptor was lost on the way */
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
