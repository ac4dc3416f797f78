/** The confined child's main: one request in, messages out, end. */
import { closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs';
import { constants as os } from 'node:os';
import { KilnError } from '../../errors.ts';
import { attachMount, changeRoot, mountTmpfs } from '../files/mount.ts';
import { ownArguments } from '../process/own-node.ts';
import { limitResource, setNoNewPrivileges } from '../process/process.ts';
import { type RefusedCalls, refuseSystemCalls, type SystemCallFilter } from '../process/seccomp.ts';
import { encodeFrame, FrameDecoder, flattenError } from './frame.ts';
import {
  type ConfinedReply,
  type ConfinedRequest,
  DESTINATION_FD,
  FIRST_FD,
  type PerformWork,
  REPLY_FD,
  type TaskContext,
  type TaskTable,
  takeWork,
  USER_NAMESPACE_FD,
} from './task.ts';

/**
 * Loads the task that the command line names, reads the request from descriptor 0, encloses the process, and
 * runs the task. A child may wait long for its request. If the parent dies before the request is complete, the
 * child does nothing.
 */
export async function serveConfined(tasks: TaskTable): Promise<void> {
  try {
    const [name = ''] = ownArguments();
    const load = Object.hasOwn(tasks, name) ? tasks[name] : undefined;
    if (load === undefined) {
      throw new KilnError('E_CONFINE_PROTOCOL', `there is no confined task '${name}'`);
    }
    const { task } = await load();
    await task.prepare?.();
    const filter = refuseSystemCalls(REFUSED);
    const request = readRequest();
    if (request === undefined) return;
    enclose(request, filter);
    const emit = (value: unknown) => reply({ type: 'message', value });
    if ('begin' in task) await serveQueue(task.begin(request.input), emit);
    else {
      const fds = Array.from({ length: request.fdCount }, (_, index) => FIRST_FD + index);
      await task.run(request.input, { fds, emit });
    }
    reply({ type: 'done' });
  } catch (error) {
    reply({ type: 'failed', error: flattenError(error) });
  }
}

function readRequest(): ConfinedRequest | undefined {
  const [request] = new FrameDecoder().push(readFileSync(0));
  return request as ConfinedRequest | undefined;
}

async function serveQueue(perform: PerformWork, emit: TaskContext['emit']): Promise<void> {
  for (const work of takeWork(FIRST_FD)) {
    try {
      reply({ type: 'answered', value: await perform(work, emit) });
    } catch (error) {
      reply({ type: 'answered', error: flattenError(error) });
    } finally {
      for (const fd of work.fds) closeSync(fd);
    }
  }
}

/** The pipe blocks: a slow parent slows the child down. */
function reply(message: ConfinedReply): void {
  const frame = encodeFrame(message);
  for (let sent = 0; sent < frame.length; ) sent += writeSync(REPLY_FD, frame, sent);
}

/* The child encloses itself: limits, a root without the host's files, no new processes. */

/** A directory that always exists and is not needed after the mount. */
const MOUNT_POINT = '/proc';

/** MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC of linux/mount.h. */
const SEALED_MOUNT = 1 | 2 | 4 | 8;

/** Threads of all confined children of one user together (RLIMIT_NPROC). */
const MAX_THREADS = 1024;

/** Node's own descriptors (epoll, eventfd, pipes), and those an unpacker has open at once. */
const SPARE_FDS = 64;

/**
 * System calls that reading a package never needs and that could help to break out: mounts, roots and
 * namespaces, new programs, sockets, other processes, keys, and kernel interfaces with a history of holes.
 *
 * io_uring_enter stays: libuv makes a ring for epoll when it starts, cannot be told not to, and dies without
 * it. What a ring can do (open, connect) is bound to the same root and the same empty network.
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

/** Encloses this process for good. Throws if any part fails. */
function enclose(request: ConfinedRequest, filter: SystemCallFilter): void {
  const { limits } = request;
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
