import { constants as os } from 'node:os';
import { compileFilter } from '../process/seccomp.ts';

/**
 * System calls that reading a package never needs and that could help to break out. io_uring_enter stays: libuv
 * makes a ring for epoll when it starts and dies without it. What a ring can do (open, connect) is bound to the
 * same root and the same empty network.
 */
const REFUSED: readonly string[] = [
  ...['mount', 'umount', 'umount2', 'pivot_root', 'chroot', 'open_tree', 'move_mount'],
  ...['fsopen', 'fsconfig', 'fsmount', 'fspick', 'mount_setattr', 'open_tree_attr'],
  ...['unshare', 'setns', 'execve', 'execveat', 'fork', 'vfork', 'mknod', 'mknodat'],
  ...['socket', 'connect', 'bind', 'listen', 'accept', 'accept4'],
  ...['ptrace', 'process_vm_readv', 'process_vm_writev', 'kcmp', 'pidfd_getfd', 'pidfd_open'],
  ...['keyctl', 'add_key', 'request_key', 'bpf', 'perf_event_open', 'userfaultfd'],
  ...['io_uring_setup', 'io_uring_register', 'fanotify_init'],
  ...['open_by_handle_at', 'name_to_handle_at', 'quotactl', 'quotactl_fd', 'syslog'],
  ...['init_module', 'finit_module', 'delete_module', 'kexec_load', 'kexec_file_load'],
  ...['swapon', 'swapoff', 'reboot', 'acct', 'personality', 'settimeofday', 'clock_settime'],
  ...['adjtimex', 'clock_adjtime', 'iopl', 'ioperm', 'capset', 'seccomp'],
  ...['setuid', 'setgid', 'setreuid', 'setregid', 'setresuid', 'setresgid', 'setgroups'],
  ...['setfsuid', 'setfsgid', 'sethostname', 'setdomainname', 'vhangup', 'landlock_add_rule'],
];

let made: string | undefined;

/**
 * What children apply, as base64 of a struct sock_filter[]. Made here, once for all of them: loading libseccomp takes a
 * child longer than many a task. @throws KilnError E_SECCOMP
 */
export function childFilter(): string {
  made ??= compileFilter(
    { action: 'SCMP_ACT_ALLOW', errno: 0 },
    [{ names: REFUSED, action: 'SCMP_ACT_ERRNO', errno: os.errno.EPERM, args: [] }],
    [],
  ).toString('base64');
  return made;
}
