/** landlock(7): what this kernel has of it. */
import { tryCall } from './system-call.ts';

const LANDLOCK_CREATE_RULESET_VERSION = 1;

let known: number | undefined;

/** The ABI, 1 or more; 0 where the kernel lacks Landlock or was started without it (`lsm=`). */
export function landlockAbi(): number {
  known ??= Math.max(
    0,
    tryCall('landlock_create_ruleset', null, 0, LANDLOCK_CREATE_RULESET_VERSION),
  );
  return known;
}
