/** System calls through the addon in src/host/calls/addon. A failed call's errno is part of its result. */
import { createRequire } from 'node:module';
import { KilnError } from '../../errors.ts';
import { SyscallError } from './libc.ts';

/** Their numbers are in dist/wire/numbers.h, which scripts/write/wire.ts makes of this. */
export const CALLS = [
  ...['accept4', 'bind', 'capget', 'capset', 'close', 'close_range', 'connect', 'dup3'],
  ...['exit_group', 'fchdir', 'fchownat', 'fcntl', 'fgetxattr', 'flistxattr', 'flock'],
  ...['fremovexattr', 'fsconfig', 'fsetxattr', 'fsmount', 'fsopen', 'fspick', 'getdents64'],
  ...['getgroups', 'getsockopt', 'getxattr', 'ioctl', 'keyctl', 'landlock_create_ruleset'],
  ...['linkat', 'listen', 'lseek', 'memfd_create', 'mkdirat', 'mknodat', 'mount'],
  ...['mount_setattr', 'move_mount', 'open_tree', 'openat2', 'pidfd_open', 'pidfd_send_signal'],
  ...['pipe2', 'pivot_root', 'ppoll', 'prctl', 'prlimit64', 'readlinkat', 'renameat2'],
  ...['setfsgid', 'setfsuid', 'setgroups', 'setsockopt', 'setxattr', 'shutdown', 'socket'],
  ...['socketpair', 'statx', 'symlinkat', 'umount2', 'unlinkat', 'utimensat'],
] as const;

type SystemCall = (typeof CALLS)[number];

/** Text gets its closing NUL, bytes do not: see cString(). `null` is a null pointer. */
type Argument = number | bigint | string | NodeJS.TypedArray | null;

interface Addon {
  readonly numbers: Readonly<Record<SystemCall, number>>;
  call(number: number, ...arguments_: readonly Argument[]): number;
  sendMessage(socket: number, data: Buffer, fds: readonly number[], flags: number): number;
  receiveMessage(
    socket: number,
    into: Buffer,
    fds: number[],
    most: number,
    flags: number,
  ): [number, number];
  applyFilter(instructions: Buffer): number;
  watch(fd: number, ready: (events: number) => void): unknown;
  setEvents(handle: unknown, events: number): number;
  stopWatching(handle: unknown): void;
  userNamespace(users: string, groups: string, denySetgroups: boolean): number;
}

const CANDIDATES = ['../../../dist/kernel.node', './kernel.node'];

function load(): Addon {
  const require = createRequire(import.meta.url);
  let cause: unknown;
  for (const candidate of CANDIDATES) {
    try {
      return require(candidate);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') cause = error;
    }
  }
  throw new KilnError('E_INSTALLATION', 'kernel.node, kiln’s addon for system calls, is missing', {
    cause,
    hint: 'run `scripts/quickstart`, or `npm run build` where a C compiler is',
  });
}

let loaded: Addon | undefined;

/** Loaded at its first use, so that commands such as help work without it. @throws KilnError E_INSTALLATION */
export function addon(): Addon {
  loaded ??= load();
  return loaded;
}

export function tryCall(name: SystemCall, ...arguments_: readonly Argument[]): number {
  const { call, numbers } = addon();
  return call(numbers[name], ...arguments_);
}

export function checked(call: string, result: number, subject?: Buffer | string): number {
  if (result < 0) throw new SyscallError(call, -result, subject?.toString());
  return result;
}

/*
 * Native calls on libuv's pool whose callers gave up. Node joins its threads when it ends, so a process with
 * such a call cannot end normally before the other side answers.
 */

let abandoned = 0;
let endsHard = false;

export function abandonCall(call: Promise<unknown>): void {
  abandoned++;
  const end = (): void => {
    abandoned--;
  };
  call.then(end, end);
  if (endsHard) return;
  endsHard = true;
  process.on('exit', (status) => {
    if (abandoned > 0) tryCall('exit_group', status);
  });
}

export function hasAbandonedCalls(): boolean {
  return abandoned > 0;
}
