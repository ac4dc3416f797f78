/**
 * The wire format between kiln and the guest init: see src/guest/protocol.h, whose numbers these
 * are. What comes back is measured and sent by the init, but is still treated as hostile: bounded,
 * checked, never trusted to be well-formed.
 */
import { KilnError } from '../errors.ts';

/** No answer of the init is longer: its buffer is 64 KiB. */
const ANSWER_MAX = 64 << 10;

const REQUEST = { setup: 1, exec: 2, signal: 3, winsize: 4, killAll: 5, keep: 6 } as const;
const ANSWER = {
  ready: 101,
  started: 102,
  exited: 103,
  failed: 104,
  quiet: 105,
  done: 106,
  notify: 107,
} as const;
const EXEC = {
  id: 1,
  argv: 2,
  env: 3,
  cwd: 4,
  user: 5,
  capabilities: 6,
  seccomp: 7,
  rlimit: 8,
  tty: 9,
  umask: 10,
  signal: 11,
  ttl: 12,
  landlock: 17,
  verdicts: 18,
  boot: 19,
} as const;

/** Bits of EXEC_LANDLOCK. */
const LANDLOCK = { files: 1, 'no-tcp': 2, 'abstract-sockets': 4 } as const;

/** A wall of landlock(7): see src/guest/landlock.h. */
export type LandlockWall = keyof typeof LANDLOCK;

/** See src/guest/label.h. */
const LABEL_MODULE = { selinux: 1, apparmor: 2 } as const;

/** One step of building the box's file system, in order. Paths are absolute, inside the box. */
export type SetupOperation =
  | { readonly op: 'hostname'; readonly name: string }
  /** The image: descriptor number `fd` of the message. */
  | { readonly op: 'lower'; readonly fd: number }
  /** Upper and work directory on a tmpfs of `bytes` (0: half of the memory). */
  | { readonly op: 'scratch-tmpfs'; readonly bytes: number }
  | { readonly op: 'scratch'; readonly fd: number }
  | { readonly op: 'network' }
  | { readonly op: 'tmpfs'; readonly path: string; readonly mode: number; readonly bytes: number }
  | {
      readonly op: 'bind';
      readonly fd: number;
      readonly path: string;
      readonly readonly: boolean;
      readonly directory: boolean;
    }
  | { readonly op: 'mask'; readonly path: string }
  | { readonly op: 'readonly'; readonly path: string }
  | { readonly op: 'file'; readonly path: string; readonly mode: number; readonly content: string }
  | {
      readonly op: 'directory';
      readonly path: string;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
    }
  /** Mandatory access control: the init's label, each command's, and that of the box's files. */
  | {
      readonly op: 'label';
      readonly module: 'selinux' | 'apparmor';
      readonly init: string;
      readonly command: string;
      readonly files: string;
    }
  /** How many namespaces of each kind the box may still make. */
  | { readonly op: 'namespaces'; readonly most: number }
  | {
      readonly op: 'owned-file';
      readonly path: string;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
      readonly content: Buffer;
    };

/** A resource limit of setrlimit(2). `Infinity` is RLIM_INFINITY. */
export interface ResourceLimit {
  readonly resource: number;
  readonly soft: number;
  readonly hard: number;
}

/** A command, as the init takes it. */
export interface ExecRequest {
  readonly id: number;
  readonly argv: readonly string[];
  readonly environment: readonly string[];
  readonly workdir: string;
  readonly user: string;
  /** Bit n: capability n stays in the bounding set. */
  readonly capabilities: bigint;
  /** struct sock_filter[], or nothing for no filter. */
  readonly seccomp?: Buffer;
  /** Where `seccomp` asks: struct sock_filter[] with the answers. */
  readonly verdicts?: Buffer;
  readonly landlock?: readonly LandlockWall[];
  readonly limits: readonly ResourceLimit[];
  readonly terminal?: { readonly rows: number; readonly columns: number };
  readonly umask: number;
  /** The command is a system's pid 1, whose /proc is closed like this. */
  readonly boot?: readonly ProcRule[];
}

/** A path of /proc that a system in the box gets to see neither or cannot write to. */
export interface ProcRule {
  readonly path: string;
  readonly rule: 'mask' | 'readonly';
}

/** A kind of system call that the filter refused, as the init counted it. */
export interface RefusedCall {
  /** AUDIT_ARCH_… of linux/audit.h */
  readonly architecture: number;
  readonly number: number;
  /** SECCOMP_RET_… with its data */
  readonly action: number;
  readonly count: number;
}

/** What the init answers. `facts` are lines NAME=VALUE. */
export type Answer =
  | { readonly type: 'ready'; readonly facts: string }
  | { readonly type: 'started'; readonly id: number; readonly pid: number; readonly facts: string }
  | {
      readonly type: 'exited';
      readonly id: number;
      /** As wait(2) gives it. */
      readonly status: number;
      readonly userMicroseconds: number;
      readonly systemMicroseconds: number;
      readonly peakRssBytes: number;
      readonly refused: readonly RefusedCall[];
    }
  | { readonly type: 'failed'; readonly id: number; readonly errno: number; readonly what: string }
  | { readonly type: 'quiet' }
  /** A request of control.ts was obeyed. */
  | { readonly type: 'done'; readonly id: number; readonly value: number }
  /** A process of the box used sd_notify(3). */
  | { readonly type: 'notify'; readonly pid: number; readonly text: string };

/** Builds a message of fields. */
export class FieldWriter {
  readonly #parts: Buffer[] = [];

  add(tag: number, ...values: readonly Buffer[]): this {
    const head = Buffer.allocUnsafe(8);
    head.writeUInt32LE(tag, 0);
    head.writeUInt32LE(
      values.reduce((sum, value) => sum + value.length, 0),
      4,
    );
    this.#parts.push(head, ...values);
    return this;
  }

  message(type: number): Buffer {
    const head = Buffer.allocUnsafe(8);
    head.writeUInt32LE(
      this.#parts.reduce((sum, part) => sum + part.length, 0),
      0,
    );
    head.writeUInt32LE(type, 4);
    return Buffer.concat([head, ...this.#parts]);
  }
}

export function u32(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(4);
  buffer.writeUInt32LE(value >>> 0, 0);
  return buffer;
}

function u64(value: number | bigint): Buffer {
  const buffer = Buffer.allocUnsafe(8);
  buffer.writeBigUInt64LE(value === Infinity ? 0xffff_ffff_ffff_ffffn : BigInt(value), 0);
  return buffer;
}

/** A string with its closing NUL. Throws E_ARGUMENT if it has one inside. */
export function text(value: string): Buffer {
  if (value.includes('\0')) {
    throw new KilnError('E_ARGUMENT', `a NUL byte in ${JSON.stringify(value)}`);
  }
  return Buffer.from(`${value}\0`);
}

function flag(value: boolean): Buffer {
  return u32(value ? 1 : 0);
}

/** MSG_SETUP; the descriptors the operations name travel with it. */
export function encodeSetup(operations: readonly SetupOperation[]): Buffer {
  const fields = new FieldWriter();
  for (const o of operations) {
    if (o.op === 'hostname') fields.add(1, text(o.name));
    else if (o.op === 'lower') fields.add(2, u32(o.fd));
    else if (o.op === 'scratch-tmpfs') fields.add(3, u64(o.bytes));
    else if (o.op === 'scratch') fields.add(4, u32(o.fd));
    else if (o.op === 'network') fields.add(5, u32(1));
    else if (o.op === 'tmpfs') fields.add(6, u32(o.mode), u64(o.bytes), text(o.path));
    else if (o.op === 'bind') {
      fields.add(7, u32(o.fd), flag(o.readonly), flag(o.directory), text(o.path));
    } else if (o.op === 'mask') fields.add(8, text(o.path));
    else if (o.op === 'readonly') fields.add(9, text(o.path));
    else if (o.op === 'file') {
      fields.add(10, u32(o.mode), text(o.path), Buffer.from(o.content));
    } else if (o.op === 'directory') {
      fields.add(11, u32(o.mode), u32(o.uid), u32(o.gid), text(o.path));
    } else if (o.op === 'namespaces') fields.add(12, u32(o.most));
    else if (o.op === 'label') {
      const labels = [o.init, o.command, o.files].map(text);
      fields.add(14, u32(LABEL_MODULE[o.module]), ...labels);
    } else fields.add(13, u32(o.mode), u32(o.uid), u32(o.gid), text(o.path), o.content);
  }
  return fields.message(REQUEST.setup);
}

/** MSG_EXEC; stdin, stdout, stderr (or one socket for the terminal's master) travel with it. */
export function encodeExec(request: ExecRequest): Buffer {
  const fields = new FieldWriter().add(EXEC.id, u32(request.id));
  for (const argument of request.argv) fields.add(EXEC.argv, text(argument));
  for (const variable of request.environment) fields.add(EXEC.env, text(variable));
  fields.add(EXEC.cwd, text(request.workdir));
  fields.add(EXEC.user, text(request.user));
  fields.add(EXEC.capabilities, u64(request.capabilities));
  if (request.seccomp !== undefined) fields.add(EXEC.seccomp, request.seccomp);
  if (request.verdicts !== undefined) fields.add(EXEC.verdicts, request.verdicts);
  const walls = (request.landlock ?? []).reduce((bits, wall) => bits | LANDLOCK[wall], 0);
  if (walls !== 0) fields.add(EXEC.landlock, u32(walls));
  for (const { resource, soft, hard } of request.limits) {
    fields.add(EXEC.rlimit, u32(resource), u64(soft), u64(hard));
  }
  if (request.terminal !== undefined) fields.add(EXEC.tty, size(request.terminal));
  fields.add(EXEC.umask, u32(request.umask));
  for (const { path, rule } of request.boot ?? []) {
    fields.add(EXEC.boot, flag(rule === 'readonly'), text(path));
  }
  return fields.message(REQUEST.exec);
}

function size({ rows, columns }: { rows: number; columns: number }): Buffer {
  const buffer = Buffer.allocUnsafe(4);
  buffer.writeUInt16LE(rows, 0);
  buffer.writeUInt16LE(columns, 2);
  return buffer;
}

/** Sends signal number `signal` to the process group of command `id`. */
export function encodeSignal(id: number, signal: number): Buffer {
  return new FieldWriter()
    .add(EXEC.id, u32(id))
    .add(EXEC.signal, u32(signal))
    .message(REQUEST.signal);
}

/** Tells command `id` that its terminal has another size. */
export function encodeWindowSize(id: number, rows: number, columns: number): Buffer {
  return new FieldWriter()
    .add(EXEC.id, u32(id))
    .add(EXEC.tty, size({ rows, columns }))
    .message(REQUEST.winsize);
}

/** Kills every process in the box but the init; answered with `quiet` when all are reaped. */
export function encodeKillAll(): Buffer {
  return new FieldWriter().message(REQUEST.killAll);
}

/** Lets the box outlive this connection, for so many seconds. */
export function encodeKeep(seconds: number): Buffer {
  return new FieldWriter().add(EXEC.ttl, u32(seconds)).message(REQUEST.keep);
}

/** Cuts a stream of bytes into answers. Throws E_PROTOCOL at the first that is malformed. */
export class AnswerDecoder {
  #pending: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): Answer[] {
    this.#pending = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const answers: Answer[] = [];
    while (this.#pending.length >= 8) {
      const length = this.#pending.readUInt32LE(0);
      if (length > ANSWER_MAX) throw malformed(`an answer of ${length} bytes`);
      if (this.#pending.length < 8 + length) break;
      answers.push(decode(this.#pending.readUInt32LE(4), this.#pending.subarray(8, 8 + length)));
      this.#pending = this.#pending.subarray(8 + length);
    }
    return answers;
  }
}

function malformed(what: string): KilnError {
  return new KilnError('E_PROTOCOL', `the guest init sent ${what}`, {
    hint: 'the box was taken over or kiln-init is of another version; the box is destroyed',
  });
}

function decode(type: number, payload: Buffer): Answer {
  const fields = new Map<number, Buffer>();
  for (let at = 0; at < payload.length; ) {
    if (payload.length - at < 8) throw malformed('a cut field');
    const length = payload.readUInt32LE(at + 4);
    if (length > payload.length - at - 8) throw malformed('a field longer than its message');
    fields.set(payload.readUInt32LE(at), payload.subarray(at + 8, at + 8 + length));
    at += 8 + length;
  }
  const number = (tag: number): number => {
    const field = fields.get(tag);
    if (field?.length === 4) return field.readUInt32LE(0);
    if (field?.length === 8) return Number(field.readBigUInt64LE(0));
    throw malformed(`an answer ${type} without field ${tag}`);
  };
  const string = (tag: number): string => fields.get(tag)?.toString('utf8') ?? '';
  switch (type) {
    case ANSWER.ready:
      return { type: 'ready', facts: string(6) };
    case ANSWER.started:
      return { type: 'started', id: number(1), pid: number(2), facts: string(6) };
    case ANSWER.exited:
      return {
        type: 'exited',
        id: number(1),
        status: number(3),
        userMicroseconds: number(7),
        systemMicroseconds: number(8),
        peakRssBytes: number(9),
        refused: refusedCalls(fields.get(10) ?? Buffer.alloc(0)),
      };
    case ANSWER.failed:
      return { type: 'failed', id: number(1), errno: number(4), what: string(5) };
    case ANSWER.quiet:
      return { type: 'quiet' };
    case ANSWER.done:
      return { type: 'done', id: number(1), value: number(2) };
    case ANSWER.notify:
      return { type: 'notify', pid: number(2), text: string(5) };
    default:
      throw malformed(`an answer of unknown type ${type}`);
  }
}

/** struct refused[] of src/guest/filter.h. */
function refusedCalls(bytes: Buffer): RefusedCall[] {
  if (bytes.length % 16 !== 0) throw malformed('a cut list of refused calls');
  return Array.from({ length: bytes.length / 16 }, (_, i) => ({
    architecture: bytes.readUInt32LE(16 * i),
    number: bytes.readInt32LE(16 * i + 4),
    action: bytes.readUInt32LE(16 * i + 8),
    count: bytes.readUInt32LE(16 * i + 12),
  }));
}
