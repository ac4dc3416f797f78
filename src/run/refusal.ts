import { errnoName } from '../kernel/libc.ts';
import { systemCallName } from '../kernel/seccomp-compile.ts';
import type { RefusedCall } from '../sandbox/protocol/answer.ts';

/** A refused system call in words. */
export interface Refusal {
  readonly syscall: string;
  /** The symbol of the errno it got; KILL when its process was killed. */
  readonly action: string;
  readonly count: number;
}

/** SECCOMP_RET_ERRNO and the mask of the data that come with it (linux/seccomp.h). */
const RET_ERRNO = 0x00050000;
const RET_DATA = 0xffff;

/** Names a refused call. */
export function describeRefusal({ architecture, number, action, count }: RefusedCall): Refusal {
  const isErrno = (action & ~RET_DATA) >>> 0 === RET_ERRNO;
  return {
    syscall: systemCallName(architecture, number),
    action: isErrno ? errnoName(action & RET_DATA) : 'KILL',
    count,
  };
}
