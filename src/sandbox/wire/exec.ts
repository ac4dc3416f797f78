import { encodeRequest } from './encode.ts';
import { FIELDS, type Parts } from './table.ts';

const { of: WALLS } = FIELDS.landlock.parts.walls;

/** A wall of landlock(7): see src/guest/landlock.h. */
export type LandlockWall = Exclude<keyof typeof WALLS, 'open-sockets'>;

/** The walls of a number that the init sent. */
export function decodeWalls(bits: number): LandlockWall[] {
  const walls = ['files', 'no-tcp', 'abstract-sockets'] as const;
  return walls.filter((wall) => (bits & WALLS[wall]) !== 0);
}

/** A resource limit of setrlimit(2). `Infinity` is RLIM_INFINITY. */
export type ResourceLimit = Parts<'rlimit'>;

/** A path of /proc that a system in the sandbox cannot see, or cannot write to. */
export type ProcRule = Parts<'boot'>;

/** A command in the form that the init takes. */
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
  /** If `seccomp` asks the init: struct sock_filter[] with the answers. */
  readonly verdicts?: Buffer;
  readonly landlock: readonly LandlockWall[];
  /**
   * Whether abstract sockets of the host's network may be open. Otherwise the init refuses to start the
   * command.
   */
  readonly openSockets: boolean;
  readonly limits: readonly ResourceLimit[];
  readonly terminal?: Parts<'terminal'>;
  readonly umask: number;
  /** Set if the command is a system's pid 1; closes that system's /proc. */
  readonly boot?: readonly ProcRule[];
}

/**
 * The request for a command; stdin, stdout, stderr (or one socket for the terminal's master) travel with it.
 * Throws E_ARGUMENT.
 */
export function encodeExec(request: ExecRequest): Buffer {
  const { id, user, workdir, capabilities, umask, seccomp, verdicts, terminal } = request;
  const walls = [...request.landlock, ...(request.openSockets ? (['open-sockets'] as const) : [])];
  return encodeRequest('exec', [
    { op: 'id', id },
    ...request.argv.map((argument) => ({ op: 'argument', argument }) as const),
    ...request.environment.map((variable) => ({ op: 'variable', variable }) as const),
    { op: 'workdir', workdir },
    { op: 'user', user },
    { op: 'capabilities', capabilities },
    ...(seccomp === undefined ? [] : [{ op: 'seccomp', filter: seccomp } as const]),
    ...(verdicts === undefined ? [] : [{ op: 'verdicts', filter: verdicts } as const]),
    { op: 'landlock', walls },
    ...request.limits.map((limit) => ({ op: 'rlimit', ...limit }) as const),
    ...(terminal === undefined ? [] : [{ op: 'terminal', ...terminal } as const]),
    { op: 'umask', umask },
    ...(request.boot ?? []).map((rule) => ({ op: 'boot', ...rule }) as const),
  ]);
}
