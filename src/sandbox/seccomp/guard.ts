import type { SeccompFilter } from './profile.ts';
import {
  argumentAt,
  guard,
  IF_ANY_BIT,
  IF_AT_LEAST,
  IF_EQUAL,
  type Instruction,
  ifEqual,
  LOAD,
  onCall,
  RET_ASK,
  RET_ERRNO,
  RETURN,
  refusing,
  TO_PROFILE,
  withGuard,
} from './program.ts';

/*
 * Refuses set-id bits, for commands that can write to folders of the host, where a set-id program would be one of
 * the host's. Sources: seccomp(2), open(2).
 */

type Check =
  | { readonly mode: number; readonly flags?: number }
  /** Always refused: the mode is in memory, where a filter cannot look. */
  | { readonly errno: number };

/** errno(3) */
const EPERM = 1;
const ENOSYS = 38;
const EOPNOTSUPP = 95;

const MODES: Readonly<Record<string, Check>> = {
  chmod: { mode: 1 },
  fchmod: { mode: 1 },
  fchmodat: { mode: 2 },
  fchmodat2: { mode: 2 },
  creat: { mode: 1 },
  open: { flags: 1, mode: 2 },
  openat: { flags: 2, mode: 3 },
  mknod: { mode: 1 },
  mknodat: { mode: 2 },
  // Programs that use openat2 fall back to openat.
  openat2: { errno: ENOSYS },
  // io_uring makes files without a system call that a filter sees.
  io_uring_setup: { errno: ENOSYS },
};

const ATTRIBUTES: Readonly<Record<string, Check>> = {
  setxattr: { errno: EOPNOTSUPP },
  lsetxattr: { errno: EOPNOTSUPP },
  fsetxattr: { errno: EOPNOTSUPP },
  setxattrat: { errno: EOPNOTSUPP },
};

/** The first number that this table does not know. Such calls fail with ENOSYS behind the guard. */
const UNKNOWN = 470;
/** The first of 32-bit ARM's own calls (__ARM_NR_BASE), which concern threads and caches. */
const ARM_OWN = 0x0f_0000;

/** S_ISUID | S_ISGID */
const SET_ID = 0o6000;
/** O_CREAT | __O_TMPFILE, the same on all these processors: without them the mode has no effect. */
const CREATES = 0o100 | 0o20000000;

function check(wanted: Check, asking: boolean): Instruction[] {
  if ('errno' in wanted) {
    // A call that does not exist is answered at once and not counted.
    return [refusing(asking && wanted.errno !== ENOSYS)(wanted.errno)];
  }
  const { mode, flags } = wanted;
  const modes: Instruction[] = [
    [LOAD, argumentAt(mode)],
    [IF_ANY_BIT, SET_ID, 0, 1],
    refusing(asking)(EPERM),
  ];
  return [
    ...(flags === undefined
      ? modes
      : ([[LOAD, argumentAt(flags)], [IF_ANY_BIT, CREATES, 0, modes.length], ...modes] as const)),
    TO_PROFILE,
  ];
}

function setIdGuard(attributes: boolean, asking: boolean): Instruction[] {
  const checks = Object.entries({ ...MODES, ...(attributes ? ATTRIBUTES : {}) });
  return guard((calls) => [
    ...checks.flatMap(([name, wanted]) => onCall(calls[name], check(wanted, asking))),
    [IF_AT_LEAST, UNKNOWN, 0, 2],
    [IF_AT_LEAST, ARM_OWN, 1, 0],
    [RETURN, RET_ERRNO | ENOSYS],
  ]);
}

/** `attributes` also refuses extended attributes, for commands that can have SETFCAP in a user namespace. */
export function withSetIdGuard(
  filter: SeccompFilter,
  { attributes }: { readonly attributes: boolean },
): SeccompFilter {
  return withGuard(filter, (asks) => setIdGuard(attributes, asks));
}

/*
 * Keeps RLIMIT_CORE at 1. With a `|` in core_pattern(5) the kernel passes a crashed process to a program that runs
 * as the host's root, unless the limit is 1; any process may lower a limit. Programs that turn their core dumps
 * off, such as gpg, end if they cannot, so the call seems to succeed. Sources: core(5), prlimit(2).
 */

/** From asm-generic/resource.h; the same on all these processors. */
const RLIMIT_CORE = 4;
const ANY = 0xffff_ffff;

const unlessGiven = (argument: number, count: number): Instruction[] => [
  [LOAD, argumentAt(argument)],
  [IF_ANY_BIT, ANY, 2, 0],
  [LOAD, argumentAt(argument) + 4],
  [IF_ANY_BIT, ANY, 0, count],
];

/** setrlimit(resource, new): the kernel uses the lower half of the first argument. */
const SETRLIMIT: readonly Instruction[] = [
  [LOAD, argumentAt(0)],
  [IF_EQUAL, RLIMIT_CORE, 0, 1],
  [RETURN, RET_ERRNO],
  TO_PROFILE,
];

/** prlimit64(pid, resource, new, old): without a new limit it only reads; the old one cannot be faked here. */
const PRLIMIT: readonly Instruction[] = [
  [LOAD, argumentAt(1)],
  [IF_EQUAL, RLIMIT_CORE, 1, 0],
  TO_PROFILE,
  ...unlessGiven(2, 6),
  ...unlessGiven(3, 1),
  [RETURN, RET_ERRNO | EPERM],
  [RETURN, RET_ERRNO],
  TO_PROFILE,
];

export function withCoreGuard(filter: SeccompFilter): SeccompFilter {
  const instructions = guard(({ setrlimit, prlimit64 }) => [
    ...onCall(setrlimit, SETRLIMIT),
    ...onCall(prlimit64, PRLIMIT),
  ]);
  return withGuard(filter, () => instructions);
}

/*
 * Calls that the init makes in a command's place (src/guest/lend.c): the filter asks it. In front of every profile,
 * whose verdict on the call counts first.
 */

/** linux/socket.h */
const AF_NETLINK = 16;

const ASK: Instruction = [RETURN, RET_ASK];

export function withLentCalls(filter: SeccompFilter): SeccompFilter {
  const instructions = guard(({ inotify_init, inotify_init1, socket }) => [
    ...onCall(inotify_init, [ASK]),
    ...onCall(inotify_init1, [ASK]),
    ...onCall(socket, [[LOAD, argumentAt(0)], ...ifEqual(AF_NETLINK, [ASK]), TO_PROFILE]),
  ]);
  return withGuard(filter, (asks) => (asks ? instructions : []));
}
