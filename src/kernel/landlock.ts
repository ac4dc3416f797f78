/** landlock(7): what this kernel has of it. */
import { libc } from './libc.ts';

const createRuleset = libc.func(
  'long syscall(long number, void *attr, size_t size, uint32_t flags)',
);

/** The same number on every architecture: landlock_create_ruleset(2) is newer than they are. */
const SYS_landlock_create_ruleset = 444;
const LANDLOCK_CREATE_RULESET_VERSION = 1;

let known: number | undefined;

/** The ABI, 1 or more; 0 where the kernel lacks Landlock or was started without it (`lsm=`). */
export function landlockAbi(): number {
  known ??= Math.max(
    0,
    Number(createRuleset(SYS_landlock_create_ruleset, null, 0, LANDLOCK_CREATE_RULESET_VERSION)),
  );
  return known;
}
