/**
 * The shipped profiles beside `default`, each derived from it. They take and return profiles in podman's format
 * (containers/common, seccomp.json).
 */

interface Rule {
  readonly action: string;
  readonly names?: readonly string[] | undefined;
  readonly args?: readonly { readonly index: number; readonly value: number }[] | null;
}

interface Profile {
  readonly syscalls: readonly Rule[];
}

const ALLOW = 'SCMP_ACT_ALLOW';

function without(rules: readonly Rule[], removed: readonly string[]): Rule[] {
  return rules.flatMap((rule) => {
    const names = rule.names?.filter((name) => !removed.includes(name));
    return names?.length === 0 ? [] : [{ ...rule, names }];
  });
}

function isFor(rule: Rule, call: string, values: readonly number[]): boolean {
  const first = rule.args?.find(({ index }) => index === 0);
  return rule.names?.includes(call) === true && first !== undefined && values.includes(first.value);
}

const BUILD_ALLOWED = [
  ...['cachestat', 'futex_requeue', 'futex_wait', 'futex_waitv', 'futex_wake', 'io_pgetevents'],
  ...['io_pgetevents_time64', 'kcmp', 'map_shadow_stack', 'migrate_pages', 'move_pages', 'mseal'],
  ...['name_to_handle_at', 'pidfd_getfd', 'process_vm_readv', 'process_vm_writev', 'ptrace'],
  ...['set_mempolicy_home_node', 'vmsplice'],
];

/** ADDR_NO_RANDOMIZE of linux/personality.h, which debuggers set. */
const NO_RANDOMIZE = {
  action: ALLOW,
  names: ['personality'],
  args: [{ index: 0, value: 0x40000, valueTwo: 0, op: 'SCMP_CMP_EQ' }],
};

export function buildProfile<Base extends Profile>(base: Base) {
  const others = without(base.syscalls, BUILD_ALLOWED);
  const allowed = { action: ALLOW, names: BUILD_ALLOWED };
  return { ...base, syscalls: [...others, allowed, NO_RANDOMIZE] };
}

/**
 * With io_setup(2). The kernel counts what it makes for the whole host (fs.aio-max-nr, 65,536), and one call can take
 * all of it. Programs do without when it is missing (ENOSYS).
 */
export function aioProfile<Base extends Profile>(base: Base) {
  return { ...base, syscalls: [...base.syscalls, { action: ALLOW, names: ['io_setup'] }] };
}

/** Calls that only attacks make: they kill. */
const KILLED = [
  ...['acct', 'add_key', 'bpf', 'chroot', 'clock_settime', 'clock_settime64', 'delete_module'],
  ...['fanotify_init', 'finit_module', 'fsconfig', 'fsmount', 'fsopen', 'fspick', 'init_module'],
  ...['ioperm', 'iopl', 'kexec_file_load', 'kexec_load', 'keyctl', 'lookup_dcookie', 'mount'],
  ...['mount_setattr', 'move_mount', 'open_by_handle_at', 'open_tree', 'perf_event_open'],
  ...['pivot_root', 'process_vm_readv', 'process_vm_writev', 'ptrace', 'quotactl', 'quotactl_fd'],
  ...['reboot', 'request_key', 'setdomainname', 'sethostname', 'setns', 'settimeofday', 'stime'],
  ...['swapoff', 'swapon', 'syslog', 'umount', 'umount2', 'userfaultfd', 'vhangup'],
];

const NOT_FOR_STRICT = [
  ...['ipc', 'mq_getsetattr', 'mq_notify', 'mq_open', 'mq_timedreceive', 'mq_timedreceive_time64'],
  ...['mq_timedsend', 'mq_timedsend_time64', 'mq_unlink', 'msgctl', 'msgget', 'msgrcv', 'msgsnd'],
  ...['semctl', 'semget', 'semop', 'semtimedop', 'semtimedop_time64'],
  ...['shmat', 'shmctl', 'shmdt', 'shmget'],
  ...['get_mempolicy', 'mbind', 'mlock', 'mlock2', 'mlockall', 'munlock', 'munlockall'],
  ...['pkey_alloc', 'pkey_free', 'pkey_mprotect', 'remap_file_pages', 'set_mempolicy'],
  'modify_ldt',
  ...['ioprio_set', 'sched_setattr', 'sched_setparam', 'sched_setscheduler', 'setpriority'],
  ...['adjtimex', 'clock_adjtime', 'clock_adjtime64'],
  ...['setfsgid', 'setfsgid32', 'setfsuid', 'setfsuid32', 'setgroups', 'setgroups32'],
  ...['io_cancel', 'io_destroy', 'io_getevents', 'io_submit', 'readahead', 'sync'],
  ...['mknod', 'mknodat', 'fanotify_mark', 'process_mrelease'],
];

/** AF_INET, AF_INET6, AF_NETLINK, AF_PACKET of linux/socket.h. */
const INTERNET = [2, 10];
const NETLINK = 16;
const PACKET = 17;

/** Of linux/personality.h: PER_LINUX32 and UNAME26, which are other ABIs. */
const OTHER_PERSONALITIES = [0x8, 0x20000, 0x20008];

/** Allows fifos (S_IFIFO in the mode, which is this argument), but no devices. */
const fifos = (call: string, index: number) => ({
  action: ALLOW,
  names: [call],
  args: [{ index, value: 0o170000, valueTwo: 0o010000, op: 'SCMP_CMP_MASKED_EQ' }],
});

/**
 * For computing on files and pipes: no sockets but unix ones, no other ABI, no tracing, no shared memory
 * segments or message queues. Calls that only attacks make kill.
 */
export function strictProfile<
  Base extends Profile & { readonly archMap: readonly { readonly architecture: string }[] },
>(base: Base) {
  const kept = without(base.syscalls, [...KILLED, ...NOT_FOR_STRICT]).filter(
    (rule) =>
      !isFor(rule, 'socket', [...INTERNET, NETLINK, PACKET]) &&
      !isFor(rule, 'personality', OTHER_PERSONALITIES),
  );
  const killed = { action: 'SCMP_ACT_KILL_PROCESS', names: KILLED };
  return {
    ...base,
    archMap: base.archMap.map(({ architecture }) => ({ architecture, subArchitectures: [] })),
    syscalls: [...kept, killed, fifos('mknod', 1), fifos('mknodat', 2)],
  };
}

const NESTED_ALLOWED = [
  ...['unshare', 'setns', 'clone', 'clone3'],
  ...['mount', 'umount', 'umount2', 'pivot_root', 'chroot'],
  ...['open_tree', 'move_mount', 'mount_setattr', 'fsopen', 'fsconfig', 'fsmount', 'fspick'],
  ...['sethostname', 'setdomainname'],
];

/**
 * For a sandbox in which other sandboxes are made. Each call still needs its capability in the namespace it acts
 * on, and a sandbox's namespaces are its own.
 */
export function nestedProfile<Base extends Profile>(base: Base) {
  const others = without(base.syscalls, NESTED_ALLOWED);
  return { ...base, syscalls: [...others, { action: ALLOW, names: NESTED_ALLOWED }] };
}

/** CLONE_NEWUSER of linux/sched.h. Flags are the first argument (on s390 the second, where this refuses too much). */
const WITHOUT_USER_NAMESPACE = {
  action: ALLOW,
  names: ['clone', 'unshare'],
  args: [{ index: 0, value: 0x1000_0000, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
};

/**
 * The flags of clone3 are in memory, where a filter cannot look. The C library and systemd fall back to clone.
 */
const NO_CLONE3 = { action: 'SCMP_ACT_ERRNO', names: ['clone3'], errnoRet: 38 };

/**
 * For a systemd that boots in a sandbox, and its services: the nested profile without user namespaces, which
 * reach most of the kernel's rarely used code.
 */
export function bootProfile<Base extends Profile>(base: Base) {
  const { syscalls, ...rest } = nestedProfile(base);
  const others = without(syscalls, [...WITHOUT_USER_NAMESPACE.names, ...NO_CLONE3.names]);
  return { ...rest, syscalls: [...others, WITHOUT_USER_NAMESPACE, NO_CLONE3] };
}

/** No internet or packet socket can be made. io_uring and passed sockets are refused, or do not exist in a sandbox. */
export function offlineProfile<Base extends Profile>(base: Base): Base {
  const offline = base.syscalls.filter((rule) => !isFor(rule, 'socket', [...INTERNET, PACKET]));
  return { ...base, syscalls: offline };
}

/** The answer of file systems without fallocate; the C library then writes zeros. EOPNOTSUPP of errno.h. */
const NO_FALLOCATE = { action: 'SCMP_ACT_ERRNO', names: ['fallocate'], errnoRet: 95 };

/** FS_IOC_RESVSP and its like of linux/falloc.h, and XFS's own: _IOW('X', …). The second byte is that letter. */
const LETTER = 0x58;
const LETTER_SHIFT = 8;

/**
 * Every ioctl whose letter differs from `X` in at least one bit: no rule can say "not equal" for a part of a
 * value.
 */
const OTHER_IOCTLS = Array.from({ length: 8 }, (_, bit) => {
  const value = 1 << (LETTER_SHIFT + bit);
  const differs = (LETTER >> bit) % 2 === 0 ? value : 0;
  const args = [{ index: 1, op: 'SCMP_CMP_MASKED_EQ', value, valueTwo: differs }];
  return { action: ALLOW, names: ['ioctl'], args };
});

/**
 * For commands whose files lie on the host's disk: fallocate(2) takes a terabyte in a millisecond, before the watch
 * can look; written data comes no faster than memory is copied (src/host/state/disk-watch.ts).
 */
export function onDiskProfile<Base extends Profile>(base: Base) {
  const others = without(base.syscalls, ['fallocate', 'ioctl']);
  return { ...base, syscalls: [...others, NO_FALLOCATE, ...OTHER_IOCTLS] };
}
