/** The child shuts itself in: limits, a root without the host, no way to make more of itself. */
import { closeSync, constants, openSync } from 'node:fs';
import { constants as os } from 'node:os';
import { attachMount, changeRoot, mountTmpfs } from '../kernel/mount.ts';
import { limitResource, setNoNewPrivileges } from '../kernel/process.ts';
import { type RefusedCalls, refuseSystemCalls } from '../kernel/seccomp.ts';
import { type ConfinedRequest, DESTINATION_FD, FIRST_FD, USER_NAMESPACE_FD } from './task.ts';

/** A directory that is surely there to mount on; nothing needs it afterwards. */
const MOUNT_POINT = '/proc';

/** MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC of linux/mount.h. */
const SEALED_MOUNT = 1 | 2 | 4 | 8;

/** Threads of all confined children of one user together (RLIMIT_NPROC). */
const MAX_THREADS = 1024;

/** Node's own descriptors (epoll, eventfd, pipes) plus what an unpacker has open at a time. */
const SPARE_FDS = 64;

/**
 * What reading a package never needs and a way out might: mounts, roots and namespaces, new
 * programs, sockets, other processes, keys, kernel interfaces with a history of holes.
 *
 * io_uring_enter stays: libuv makes a ring for epoll as it starts, cannot be told not to, and dies
 * without it. What a ring can do (open, connect) ends at the same root and in the same empty
 * network.
 */
const REFUSED: readonly RefusedCalls[] = [
  {
    errno: os.errno.EPERM,
    names: [
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
    ],
  },
];

/** Shuts this process in; there is no way back. Throws when any part of it fails. */
export function enclose(request: ConfinedRequest): void {
  const { limits } = request;
  const filter = refuseSystemCalls(REFUSED);
  limitResource('core', 0);
  limitResource('cpu', limits.cpuSeconds);
  limitResource('fsize', limits.fileSize);
  limitResource('data', limits.memory);
  limitResource('nproc', MAX_THREADS);
  limitResource('nofile', FIRST_FD + request.fdCount + SPARE_FDS);
  closeSync(USER_NAMESPACE_FD);
  if (request.destination) {
    attachMount(DESTINATION_FD, MOUNT_POINT);
    changeRoot(DESTINATION_FD);
    closeSync(DESTINATION_FD);
  } else {
    mountTmpfs(MOUNT_POINT, SEALED_MOUNT, 'size=4k,nr_inodes=2,mode=555');
    const root = openSync(MOUNT_POINT, constants.O_RDONLY | constants.O_DIRECTORY);
    changeRoot(root);
    closeSync(root);
  }
  process.umask(0);
  setNoNewPrivileges();
  filter.apply();
}
