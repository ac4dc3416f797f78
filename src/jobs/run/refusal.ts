import { errnoName } from '../../host/calls/libc.ts';
import { systemCallName } from '../../host/process/seccomp.ts';
import type { RefusedCall } from '../../sandbox/command/process.ts';

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

/**
 * Calls that programs and libraries try and do without, beside those that are answered with ENOSYS,
 * which means an older kernel to whoever tries. Naming them as the cause of a failure misleads.
 */
const PROBED: ReadonlySet<string> = new Set([
  // libuv (Node) and others fall back to epoll.
  ...['io_uring_setup', 'io_uring_enter', 'io_uring_register'],
  // libnuma, OpenBLAS and database servers ask where memory lies.
  ...['get_mempolicy', 'set_mempolicy', 'mbind', 'migrate_pages', 'move_pages'],
  // glibc falls back to clone.
  'clone3',
  // systemd's tools, sshd and su make session keyrings where they can.
  ...['keyctl', 'add_key', 'request_key'],
  // glibc's and systemd's ways to a file handle; they ask by path then.
  ...['name_to_handle_at', 'open_by_handle_at'],
  // Garbage collectors, and perf's users.
  ...['userfaultfd', 'perf_event_open'],
]);

/** Whether a refused call may be why a command failed, rather than one it does without. */
export function mayExplainFailure({ syscall, action }: Refusal): boolean {
  return action !== 'ENOSYS' && (action === 'KILL' || !PROBED.has(syscall));
}

/** Names a refused call. */
export function describeRefusal({ architecture, number, action, count }: RefusedCall): Refusal {
  const isErrno = (action & ~RET_DATA) >>> 0 === RET_ERRNO;
  return {
    syscall: systemCallName(architecture, number),
    action: isErrno ? errnoName(action & RET_DATA) : 'KILL',
    count,
  };
}
