/**
 * System calls that Node does not offer, through the addon in src/host/calls/addon. A failed call's errno is
 * part of its result, read by the C function that made the call.
 */
import { createRequire } from 'node:module';
import { KilnError } from '../../errors.ts';
import { SyscallError } from './libc.ts';

/** The calls that src/host/calls/addon/numbers.h has. */
type SystemCall =
  | 'accept4'
  | 'bind'
  | 'capget'
  | 'capset'
  | 'close'
  | 'close_range'
  | 'connect'
  | 'dup3'
  | 'exit_group'
  | 'fchdir'
  | 'fchownat'
  | 'fcntl'
  | 'fgetxattr'
  | 'flistxattr'
  | 'flock'
  | 'fremovexattr'
  | 'fsconfig'
  | 'fsetxattr'
  | 'fsmount'
  | 'fsopen'
  | 'getdents64'
  | 'getsockopt'
  | 'getgroups'
  | 'getxattr'
  | 'ioctl'
  | 'landlock_create_ruleset'
  | 'linkat'
  | 'listen'
  | 'lseek'
  | 'memfd_create'
  | 'mkdirat'
  | 'mknodat'
  | 'mount'
  | 'mount_setattr'
  | 'move_mount'
  | 'open_tree'
  | 'openat2'
  | 'pipe2'
  | 'pivot_root'
  | 'ppoll'
  | 'prctl'
  | 'prlimit64'
  | 'readlinkat'
  | 'renameat2'
  | 'setfsgid'
  | 'setfsuid'
  | 'setgroups'
  | 'setsockopt'
  | 'setxattr'
  | 'shutdown'
  | 'socket'
  | 'socketpair'
  | 'splice'
  | 'statx'
  | 'symlinkat'
  | 'syncfs'
  | 'umount2'
  | 'unlinkat'
  | 'utimensat';

/** Text gets its closing NUL, bytes do not: see cString(). `null` is a null pointer. */
type Argument = number | bigint | string | NodeJS.TypedArray | null;

interface Addon {
  readonly numbers: Readonly<Record<SystemCall, number>>;
  call(number: number, ...arguments_: readonly Argument[]): number;
  callInThread(number: number, ...arguments_: readonly Argument[]): Promise<number>;
  sendMessage(socket: number, data: Buffer, fds: readonly number[], flags: number): number;
  receiveMessage(
    socket: number,
    into: Buffer,
    fds: number[],
    most: number,
    flags: number,
  ): [number, number];
  watch(fd: number, ready: (events: number) => void): unknown;
  setEvents(handle: unknown, events: number): number;
  stopWatching(handle: unknown): void;
  userNamespace(users: string, groups: string, denySetgroups: boolean): number;
}

/** Where the build puts the addon, relative to the source and to the bundle. */
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

/**
 * The addon. It is loaded at its first use, so that commands such as help work without it.
 * @throws KilnError E_INSTALLATION
 */
export function addon(): Addon {
  loaded ??= load();
  return loaded;
}

/** Makes a call; the result, or the negative errno. */
export function tryCall(name: SystemCall, ...arguments_: readonly Argument[]): number {
  const { call, numbers } = addon();
  return call(numbers[name], ...arguments_);
}

/** Makes a call that may take long in a thread; the result, or the negative errno. */
export function tryCallInThread(
  name: SystemCall,
  ...arguments_: readonly Argument[]
): Promise<number> {
  const { callInThread, numbers } = addon();
  return callInThread(numbers[name], ...arguments_);
}

/** The result of a call, unless it is a negative errno. @throws SyscallError that names `subject` */
export function checked(call: string, result: number, subject?: Buffer | string): number {
  // The subject's text is made only on failure: making it takes as long as most calls.
  if (result < 0) throw new SyscallError(call, -result, subject?.toString());
  return result;
}

/*
 * Native calls on libuv's pool whose callers gave up because the other side hangs. Node joins its threads when
 * it ends, so a process with such a call cannot end normally before the other side answers.
 */

let abandoned = 0;
let endsHard = false;

/** Notes a call that goes on although its caller gave up: the process must end by process.exit(). */
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

/** Whether there are abandoned calls. If so, only process.exit() ends this process. */
export function hasAbandonedCalls(): boolean {
  return abandoned > 0;
}
