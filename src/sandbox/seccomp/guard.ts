/**
 * Filters in front of a profile's. They are written by hand: an old libseccomp leaves out calls that it does not
 * know, and two filters of libseccomp's cannot be combined. test/sandbox/set-id.test.ts compares the numbers with
 * libseccomp's. Sources: seccomp(2), linux/filter.h, linux/audit.h.
 */
import type { SeccompFilter } from './profile.ts';

/** Calls since Linux 5.1 have the same number on every architecture. */
const NEW = { io_uring_setup: 425, openat2: 437, fchmodat2: 452, setxattrat: 463 };

interface Abi {
  readonly architecture: number;
  readonly calls: Readonly<Record<string, number>>;
}

const I386_CALLS = {
  ...{ setrlimit: 75, prlimit64: 340 },
  ...{ open: 5, creat: 8, mknod: 14, chmod: 15, fchmod: 94, openat: 295, mknodat: 297 },
  ...{ fchmodat: 306, setxattr: 226, lsetxattr: 227, fsetxattr: 228, ...NEW },
};

/** By Node's name for the processor: its own ABI, and the 32-bit ABIs that it also runs. */
export const ABIS: Readonly<Record<string, Readonly<Record<string, Abi>>>> = {
  x64: {
    x86_64: {
      architecture: 0xc000003e,
      calls: {
        ...{ setrlimit: 160, prlimit64: 302 },
        ...{ open: 2, creat: 85, chmod: 90, fchmod: 91, mknod: 133, openat: 257, mknodat: 259 },
        ...{ fchmodat: 268, setxattr: 188, lsetxattr: 189, fsetxattr: 190, ...NEW },
      },
    },
    x86: { architecture: 0x40000003, calls: I386_CALLS },
  },
  arm64: {
    aarch64: {
      architecture: 0xc00000b7,
      calls: {
        ...{ setrlimit: 164, prlimit64: 261 },
        ...{ mknodat: 33, fchmod: 52, fchmodat: 53, openat: 56 },
        ...{ setxattr: 5, lsetxattr: 6, fsetxattr: 7, ...NEW },
      },
    },
    arm: {
      architecture: 0x40000028,
      calls: { ...I386_CALLS, prlimit64: 369, openat: 322, mknodat: 324, fchmodat: 333 },
    },
  },
};

/** x32 uses the numbers of x86_64 with this bit. */
const X32 = 0x4000_0000;

/** struct seccomp_data: nr, arch, instruction pointer, six arguments. The lower half of each comes first. */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
const argumentAt = (index: number) => 16 + 8 * index;

/** Of linux/bpf_common.h: LD|W|ABS, ALU|AND|K, JMP|JA, JMP|JEQ|K, JMP|JGE|K, JMP|JSET|K, RET|K. */
const LOAD = 0x20;
const AND = 0x54;
const JUMP = 0x05;
const IF_EQUAL = 0x15;
const IF_AT_LEAST = 0x35;
const IF_ANY_BIT = 0x45;
const RETURN = 0x06;

const RET_ERRNO = 0x0005_0000;
/** struct sock_filter: code, operand, instructions to skip if true and if false. */
type Instruction = readonly [code: number, operand: number, yes?: number, no?: number];

const TO_PROFILE: Instruction = [JUMP, -1];

function ifEqual(value: number, body: readonly Instruction[]): Instruction[] {
  if (body.length > 255) throw new RangeError('a jump of a filter skips 255 instructions at most');
  return [[IF_EQUAL, value, 0, body.length], ...body];
}

function guard(
  body: (calls: Readonly<Record<string, number>>) => readonly Instruction[],
): Instruction[] {
  const abis = ABIS[process.arch];
  if (abis === undefined) throw new RangeError(`no system call numbers of ${process.arch}`);
  const sections = Object.values(abis).flatMap(({ architecture, calls }) =>
    ifEqual(architecture, [[LOAD, NUMBER_AT], [AND, ~X32 >>> 0], ...body(calls), TO_PROFILE]),
  );
  // Other architectures are left to the profile; they do not run on this processor.
  return [[LOAD, ARCHITECTURE_AT], ...sections];
}

function assemble(program: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(8 * program.length);
  program.forEach(([code, operand, yes = 0, no = 0], index) => {
    bytes.writeUInt16LE(code, 8 * index);
    bytes.writeUInt8(yes, 8 * index + 2);
    bytes.writeUInt8(no, 8 * index + 3);
    bytes.writeUInt32LE(operand < 0 ? program.length - index - 1 : operand, 8 * index + 4);
  });
  return bytes;
}

function withGuard(
  { name, plain, asking }: SeccompFilter,
  of: (asks: boolean) => readonly Instruction[],
): SeccompFilter {
  const before = (filter: Buffer, asks: boolean) => Buffer.concat([assemble(of(asks)), filter]);
  return {
    name,
    plain: before(plain, false),
    ...(asking === undefined ? {} : { asking: before(asking, true) }),
  };
}

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
/** SECCOMP_RET_USER_NOTIF: asks the init, which counts and answers as the plain filter says. */
const RET_ASK = 0x7fc0_0000;

function check(wanted: Check, asking: boolean): Instruction[] {
  if ('errno' in wanted) {
    // A call that does not exist is answered at once and not counted.
    const asks = asking && wanted.errno !== ENOSYS;
    return [[RETURN, asks ? RET_ASK : RET_ERRNO | wanted.errno]];
  }
  const { mode, flags } = wanted;
  const modes: Instruction[] = [
    [LOAD, argumentAt(mode)],
    [IF_ANY_BIT, SET_ID, 0, 1],
    [RETURN, asking ? RET_ASK : RET_ERRNO | EPERM],
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
    ...checks.flatMap(([name, wanted]) => {
      const number = calls[name];
      return number === undefined ? [] : ifEqual(number, check(wanted, asking));
    }),
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
    ...(setrlimit === undefined ? [] : ifEqual(setrlimit, SETRLIMIT)),
    ...(prlimit64 === undefined ? [] : ifEqual(prlimit64, PRLIMIT)),
  ]);
  return withGuard(filter, () => instructions);
}
