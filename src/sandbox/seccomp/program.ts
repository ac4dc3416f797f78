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

/** Of 32-bit x86; 32-bit ARM has most of them by the same number. */
const CALLS_32 = {
  ...{ setrlimit: 75, prlimit64: 340 },
  ...{ socket: 359, socketpair: 360, setsockopt: 366, ioctl: 54 },
  ...{ inotify_init: 291, inotify_init1: 332, mmap2: 192, memfd_create: 356, shmget: 395 },
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
        ...{ socket: 41, socketpair: 53, setsockopt: 54, ioctl: 16 },
        ...{ inotify_init: 253, inotify_init1: 294, mmap: 9, memfd_create: 319, shmget: 29 },
        ...{ open: 2, creat: 85, chmod: 90, fchmod: 91, mknod: 133, openat: 257, mknodat: 259 },
        ...{ fchmodat: 268, setxattr: 188, lsetxattr: 189, fsetxattr: 190, ...NEW },
      },
    },
    x86: { architecture: 0x40000003, calls: { ...CALLS_32, mmap: 90, ipc: 117 } },
  },
  arm64: {
    aarch64: {
      architecture: 0xc00000b7,
      calls: {
        ...{ setrlimit: 164, prlimit64: 261 },
        ...{ socket: 198, socketpair: 199, setsockopt: 208, ioctl: 29, inotify_init1: 26 },
        ...{ mmap: 222, memfd_create: 279, shmget: 194 },
        ...{ mknodat: 33, fchmod: 52, fchmodat: 53, openat: 56 },
        ...{ setxattr: 5, lsetxattr: 6, fsetxattr: 7, ...NEW },
      },
    },
    arm: {
      architecture: 0x40000028,
      calls: {
        ...{ ...CALLS_32, prlimit64: 369, openat: 322, mknodat: 324, fchmodat: 333 },
        ...{ socket: 281, socketpair: 288, setsockopt: 294 },
        ...{ inotify_init: 316, inotify_init1: 360, memfd_create: 385, shmget: 307 },
      },
    },
  },
};

/** x32 uses the numbers of x86_64 with this bit. */
const X32 = 0x4000_0000;

/** struct seccomp_data: nr, arch, instruction pointer, six arguments. The lower half of each comes first. */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
export const argumentAt = (index: number) => 16 + 8 * index;

/** Of linux/bpf_common.h: LD|W|ABS, ALU|AND|K, JMP|JA, JMP|JEQ|K, JMP|JGE|K, JMP|JSET|K, RET|K. */
export const LOAD = 0x20;
export const AND = 0x54;
const JUMP = 0x05;
export const IF_EQUAL = 0x15;
export const IF_AT_LEAST = 0x35;
export const IF_ANY_BIT = 0x45;
export const RETURN = 0x06;

export const RET_ERRNO = 0x0005_0000;
/** SECCOMP_RET_USER_NOTIF: asks the init, which counts and answers as the plain filter says. */
export const RET_ASK = 0x7fc0_0000;

/** struct sock_filter: code, operand, instructions to skip if true and if false. */
export type Instruction = readonly [code: number, operand: number, yes?: number, no?: number];

export const TO_PROFILE: Instruction = [JUMP, -1];

export function ifEqual(value: number, body: readonly Instruction[]): Instruction[] {
  if (body.length > 255) throw new RangeError('a jump of a filter skips 255 instructions at most');
  return [[IF_EQUAL, value, 0, body.length], ...body];
}

/** Refuses with this errno(3), or asks. */
export type Refuse = (errno: number) => Instruction;

export const refusing = (asks: boolean): Refuse => {
  return (errno) => [RETURN, asks ? RET_ASK : RET_ERRNO | errno];
};

/** @param ranges first and last value that `refusal` is for */
export function ifWithin(
  ranges: readonly (readonly [first: number, last: number])[],
  refusal: Instruction,
): Instruction[] {
  return ranges.flatMap(([first, last]): Instruction[] => [
    [IF_AT_LEAST, first, 0, 2],
    [IF_AT_LEAST, last + 1, 1, 0],
    refusal,
  ]);
}

/** Nothing where this processor has no such call. */
export function onCall(
  number: number | undefined,
  body: readonly Instruction[],
): readonly Instruction[] {
  return number === undefined ? [] : ifEqual(number, body);
}

export function guard(
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

export function withGuard(
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
