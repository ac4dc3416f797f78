/**
 * The wire format between kiln and the guest init: see src/guest/protocol.h, whose numbers these
 * are. Commands, and what else is asked of a box that runs.
 */
import { FieldWriter, flag, text, u32, u64 } from './fields.ts';

const REQUEST = { exec: 2, signal: 3, winsize: 4, killAll: 5, keep: 6 } as const;
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
  gate: 21,
} as const;

/** Bits of EXEC_LANDLOCK. */
const LANDLOCK = { files: 1, 'no-tcp': 2, 'abstract-sockets': 4 } as const;

/** Beside them: the host's abstract sockets may be open. */
const OPEN_SOCKETS = 8;

/** A wall of landlock(7): see src/guest/landlock.h. */
export type LandlockWall = keyof typeof LANDLOCK;

/** The walls of a number that the init sent. */
export function decodeWalls(bits: number): LandlockWall[] {
  const walls = Object.keys(LANDLOCK) as LandlockWall[];
  return walls.filter((wall) => (bits & LANDLOCK[wall]) !== 0);
}

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
  readonly landlock: readonly LandlockWall[];
  /** In the host's network, its abstract sockets may be open: else the init refuses to start the command. */
  readonly openSockets: boolean;
  readonly limits: readonly ResourceLimit[];
  readonly terminal?: { readonly rows: number; readonly columns: number };
  readonly umask: number;
  /** The command is a system's pid 1, whose /proc is closed like this. */
  readonly boot?: readonly ProcRule[];
  /** The exec waits for a byte of a pipe. */
  readonly gated?: boolean;
}

/** A path of /proc that a system in the box gets to see neither or cannot write to. */
export interface ProcRule {
  readonly path: string;
  readonly rule: 'mask' | 'readonly';
}

/**
 * MSG_EXEC; stdin, stdout, stderr (or one socket for the terminal's master) travel with it, and last
 * the reading end of the gate if there is one.
 */
export function encodeExec(request: ExecRequest): Buffer {
  const fields = new FieldWriter().add(EXEC.id, u32(request.id));
  for (const argument of request.argv) fields.add(EXEC.argv, text(argument));
  for (const variable of request.environment) fields.add(EXEC.env, text(variable));
  fields.add(EXEC.cwd, text(request.workdir));
  fields.add(EXEC.user, text(request.user));
  fields.add(EXEC.capabilities, u64(request.capabilities));
  if (request.seccomp !== undefined) fields.add(EXEC.seccomp, request.seccomp);
  if (request.verdicts !== undefined) fields.add(EXEC.verdicts, request.verdicts);
  const walls = request.landlock.reduce((bits, wall) => bits | LANDLOCK[wall], 0);
  fields.add(EXEC.landlock, u32(walls | (request.openSockets ? OPEN_SOCKETS : 0)));
  for (const { resource, soft, hard } of request.limits) {
    fields.add(EXEC.rlimit, u32(resource), u64(soft), u64(hard));
  }
  if (request.terminal !== undefined) fields.add(EXEC.tty, size(request.terminal));
  fields.add(EXEC.umask, u32(request.umask));
  for (const { path, rule } of request.boot ?? []) {
    fields.add(EXEC.boot, flag(rule === 'readonly'), text(path));
  }
  if (request.gated === true) fields.add(EXEC.gate, flag(true));
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
