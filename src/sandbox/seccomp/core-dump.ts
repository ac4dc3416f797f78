/**
 * A filter in front of every profile: RLIMIT_CORE stays 1. With a `|` in core_pattern(5) the kernel gives what a
 * crashed process leaves to a program that runs as the host's root, unless the limit is 1. At 0 it runs, too, and
 * anybody may lower a limit. Programs that turn their core dumps off, as gpg does, end if they cannot: they are told
 * that it is done, and have none.
 * Sources: core(5), do_coredump() of the kernel, prlimit(2).
 */
import {
  argumentAt,
  guard,
  IF_ANY_BIT,
  IF_EQUAL,
  type Instruction,
  ifEqual,
  LOAD,
  RET_ERRNO,
  RETURN,
  TO_PROFILE,
  withGuard,
} from './guard.ts';
import type { SeccompFilter } from './profile.ts';

/** Of asm-generic/resource.h, alike on all of these processors. */
const RLIMIT_CORE = 4;
const EPERM = 1;
const ANY = 0xffff_ffff;

/** Whether the pointer in an argument is none: then the next `count` instructions are skipped. */
const unlessGiven = (argument: number, count: number): Instruction[] => [
  [LOAD, argumentAt(argument)],
  [IF_ANY_BIT, ANY, 2, 0],
  [LOAD, argumentAt(argument) + 4],
  [IF_ANY_BIT, ANY, 0, count],
];

/** setrlimit(resource, new): the kernel looks at the lower half of the first argument. */
const SETRLIMIT: readonly Instruction[] = [
  [LOAD, argumentAt(0)],
  [IF_EQUAL, RLIMIT_CORE, 0, 1],
  [RETURN, RET_ERRNO],
  TO_PROFILE,
];

/** prlimit64(pid, resource, new, old): without a new limit it only asks; the old one cannot be told from here. */
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

/** The filter with the guard in front of it. */
export function withCoreGuard(filter: SeccompFilter): SeccompFilter {
  const instructions = guard(({ setrlimit, prlimit64 }) => [
    ...(setrlimit === undefined ? [] : ifEqual(setrlimit, SETRLIMIT)),
    ...(prlimit64 === undefined ? [] : ifEqual(prlimit64, PRLIMIT)),
  ]);
  return withGuard(filter, () => instructions);
}
