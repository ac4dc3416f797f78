/**
 * A filter in front of a profile's: no file gets a set-id bit. It is for commands that can write to
 * folders of the host, where a set-id program would be one of the host's.
 * Sources: seccomp(2), open(2).
 */
import {
  argumentAt,
  guard,
  IF_ANY_BIT,
  IF_AT_LEAST,
  type Instruction,
  ifEqual,
  LOAD,
  RET_ERRNO,
  RETURN,
  TO_PROFILE,
  withGuard,
} from './guard.ts';
import type { SeccompFilter } from './profile.ts';

/** What a call is checked for; the numbers are those of its arguments. */
type Check =
  | { readonly mode: number; readonly flags?: number }
  /** Always refused: what it would do is in memory, where a filter cannot look. */
  | { readonly errno: number };

/** errno(3) */
const EPERM = 1;
const ENOSYS = 38;
const EOPNOTSUPP = 95;

/** Calls that give a file its mode. */
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
  // Programs that have it fall back to openat.
  openat2: { errno: ENOSYS },
  // It makes files without a call that a filter sees.
  io_uring_setup: { errno: ENOSYS },
};

/** Calls that could give a file capabilities (security.capability). */
const ATTRIBUTES: Readonly<Record<string, Check>> = {
  setxattr: { errno: EOPNOTSUPP },
  lsetxattr: { errno: EOPNOTSUPP },
  fsetxattr: { errno: EOPNOTSUPP },
  setxattrat: { errno: EOPNOTSUPP },
};

/** The first number that this table knows nothing of: such calls do not exist behind the guard. */
const UNKNOWN = 470;
/** The first of 32-bit ARM's own calls (__ARM_NR_BASE), which concern threads and caches. */
const ARM_OWN = 0x0f_0000;

/** S_ISUID | S_ISGID */
const SET_ID = 0o6000;
/** O_CREAT | __O_TMPFILE, alike on all of these processors: without them the mode means nothing. */
const CREATES = 0o100 | 0o20000000;
/** SECCOMP_RET_USER_NOTIF: asks the init, which counts and answers as the plain filter says. */
const RET_ASK = 0x7fc0_0000;

/** What is done with a call that has been recognised. */
function check(wanted: Check, asking: boolean): Instruction[] {
  if ('errno' in wanted) {
    // A call that does not exist is answered fast, and is no refusal worth counting.
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

/**
 * The filter with the guard in front of it. `attributes`: extended attributes cannot be set either,
 * for commands that can have SETFCAP in a user namespace of their own.
 */
export function withSetIdGuard(
  filter: SeccompFilter,
  { attributes }: { readonly attributes: boolean },
): SeccompFilter {
  return withGuard(filter, (asks) => setIdGuard(attributes, asks));
}
