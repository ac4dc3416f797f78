import type { Capability } from '../../host/process/process.ts';
import type { SeccompFilter } from './profile.ts';
import {
  AND,
  argumentAt,
  guard,
  IF_ANY_BIT,
  IF_AT_LEAST,
  IF_EQUAL,
  type Instruction,
  ifEqual,
  ifWithin,
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
const EINVAL = 22;
const ENOSYS = 38;
const ENOPROTOOPT = 92;
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
 * Calls that the init makes in a command's place (src/guest/filter.c): the filter asks it. In front of every profile,
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

/*
 * What one sandbox could take of all that the host has, and neither a control group nor a user namespace bounds: huge
 * pages (the host's pool of them), and room for compiled filters (net.core.bpf_jit_limit), without which nobody but root
 * can load a seccomp filter. In front of every profile. Sources: mmap(2), memfd_create(2), shmget(2), ipc(2), socket(7).
 */

const MAP_HUGETLB = 0x40000;
const MFD_HUGETLB = 4;
const SHM_HUGETLB = 0o4000;

/** linux/ipc.h: the upper half of ipc(2)'s first argument is a version. */
const IPC_SHMGET = 23;

/** asm-generic/socket.h: SO_ATTACH_FILTER, SO_ATTACH_BPF and its two of SO_REUSEPORT. */
const SOL_SOCKET = 1;
const ATTACHING = [
  [26, 26],
  [50, 52],
] as const;

/** @param capabilities of the command: with NET_RAW it may filter what it listens to */
export function withShareGuard(
  filter: SeccompFilter,
  capabilities: readonly Capability[],
): SeccompFilter {
  return withGuard(filter, (asks) => {
    const refuse = refusing(asks);
    const without = (argument: number, bit: number): Instruction[] => [
      [LOAD, argumentAt(argument)],
      [IF_ANY_BIT, bit, 0, 1],
      refuse(EINVAL),
      TO_PROFILE,
    ];
    const options = ifWithin(ATTACHING, refuse(ENOPROTOOPT));
    return guard(({ mmap, mmap2, memfd_create, shmget, ipc, setsockopt }) => [
      ...onCall(mmap2, without(3, MAP_HUGETLB)),
      // Where there is mmap2, the flags of mmap are in memory; the C library uses mmap2.
      ...onCall(
        mmap,
        mmap2 === undefined ? without(3, MAP_HUGETLB) : [[RETURN, RET_ERRNO | ENOSYS]],
      ),
      ...onCall(memfd_create, without(1, MFD_HUGETLB)),
      ...onCall(shmget, without(2, SHM_HUGETLB)),
      ...onCall(ipc, [
        [LOAD, argumentAt(0)],
        [AND, 0xffff],
        ...ifEqual(IPC_SHMGET, without(3, SHM_HUGETLB)),
        TO_PROFILE,
      ]),
      ...(capabilities.includes('NET_RAW')
        ? []
        : onCall(setsockopt, [
            [LOAD, argumentAt(1)],
            ...ifEqual(SOL_SOCKET, [[LOAD, argumentAt(2)], ...options, TO_PROFILE]),
            TO_PROFILE,
          ])),
    ]);
  });
}
