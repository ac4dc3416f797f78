import { checked, tryCall } from './system-call.ts';

/** The first descriptor that is no stdio, and close_range(2)'s last. */
const FIRST = 3;
const LAST = 0xffff_ffff;
/** CLOSE_RANGE_CLOEXEC of linux/close_range.h (Linux 5.11): they close when a program is executed. */
const CLOSE_ON_EXEC = 4;

/**
 * From here on no program that this process starts has its descriptors, other than those it is given:
 * not those that kiln's own caller left open either, which nobody marked. They stay open here, for a
 * caller may name one (`/dev/fd/63`). Costs microseconds. @throws SyscallError
 */
export function keepDescriptors(): void {
  checked('close_range', tryCall('close_range', FIRST, LAST, CLOSE_ON_EXEC));
}
