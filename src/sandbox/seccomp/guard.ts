/**
 * Filters in front of a profile's. They are written here, not made by libseccomp, for two reasons: an old
 * libseccomp does not know all calls and leaves out the unknown ones, and two filters of libseccomp's cannot be
 * put together. The numbers are the kernel's ABI; test/sandbox/set-id.test.ts compares them with libseccomp's.
 * Sources: seccomp(2), linux/filter.h, linux/audit.h.
 */
import type { SeccompFilter } from './profile.ts';

/** Calls since Linux 5.1 have the same number everywhere. */
const NEW = { io_uring_setup: 425, openat2: 437, fchmodat2: 452, setxattrat: 463 };

/** An ABI: its AUDIT_ARCH number, and its calls' numbers as <asm/unistd.h> has them. */
interface Abi {
  readonly architecture: number;
  readonly calls: Readonly<Record<string, number>>;
}

const I386_CALLS = {
  ...{ setrlimit: 75, prlimit64: 340 },
  ...{ open: 5, creat: 8, mknod: 14, chmod: 15, fchmod: 94, openat: 295, mknodat: 297 },
  ...{ fchmodat: 306, setxattr: 226, lsetxattr: 227, fsetxattr: 228, ...NEW },
};

/** Of each of Node's names for a processor: its own ABI, and those of 32 bits it also runs. */
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

/** Of x32, whose calls have the numbers of x86_64 and this bit. */
const X32 = 0x4000_0000;

/** struct seccomp_data: nr, arch, instruction pointer, six arguments. The lower half comes first. */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
export const argumentAt = (index: number) => 16 + 8 * index;

export const LOAD = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP = 0x05; // BPF_JMP | BPF_JA
export const IF_EQUAL = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
export const IF_AT_LEAST = 0x35; // BPF_JMP | BPF_JGE | BPF_K
export const IF_ANY_BIT = 0x45; // BPF_JMP | BPF_JSET | BPF_K
export const RETURN = 0x06; // BPF_RET | BPF_K

export const RET_ERRNO = 0x0005_0000;
/** struct sock_filter: code, how many to skip if so and if not, operand. */
export type Instruction = readonly [code: number, operand: number, yes?: number, no?: number];

/** A jump to the first instruction after the guard. */
export const TO_PROFILE: Instruction = [JUMP, -1];

/** `body`, if the accumulator is `value`. */
export function ifEqual(value: number, body: readonly Instruction[]): Instruction[] {
  if (body.length > 255) throw new RangeError('a jump of a filter skips 255 instructions at most');
  return [[IF_EQUAL, value, 0, body.length], ...body];
}

/**
 * A guard: what is done with calls that are recognised, on each ABI of this processor.
 * @param body given the numbers of an ABI's calls; what it does not end goes on with the profile
 */
export function guard(
  body: (calls: Readonly<Record<string, number>>) => readonly Instruction[],
): Instruction[] {
  const abis = ABIS[process.arch];
  if (abis === undefined) throw new RangeError(`no system call numbers of ${process.arch}`);
  const sections = Object.values(abis).flatMap(({ architecture, calls }) =>
    ifEqual(architecture, [[LOAD, NUMBER_AT], [AND, ~X32 >>> 0], ...body(calls), TO_PROFILE]),
  );
  // An architecture that is none of these is the profile's to refuse: it runs on no such processor.
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

/** The filter with a guard in front of it. @param of makes the guard, for the filter that asks the init or not */
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
