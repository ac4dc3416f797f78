/**
 * What is tried, what should stop it, and what the same attempt does when that is taken away. The
 * attempts themselves are the verbs of probe.c.
 */

/** The layers, as docs/security.md has them. */
type Layer =
  | 'namespaces'
  | 'files'
  | 'ids'
  | 'capabilities'
  | 'seccomp'
  | 'landlock'
  | 'limits'
  | 'network'
  | 'host side';

/** Ways to be without something; setup.ts makes them. */
export type Without =
  | 'seccomp' // no filter
  | 'rights' // no filter, no Landlock, every capability: root of its user namespace in full
  | 'walls' // no Landlock, no filter
  | 'proc' // a box whose /proc is as the kernel makes it, otherwise as `seccomp`
  | 'bare' // `proc` and `rights` at once, and namespaces can be made
  | 'network' // the host's network, otherwise as usual
  | 'user' // container root instead of the unprivileged user, otherwise as usual
  | 'limits' // no limits
  | 'new-privileges' // an init that skips no_new_privs and nosuid
  | 'cgroup-namespace'; // an init that skips it

export interface Attempt {
  readonly verb: string;
  readonly tries: string;
  readonly layer: Layer;
  /** Who tries: both, unless it makes no sense for one. */
  readonly as?: 'user' | 'root';
  /** Without what it must get further: through, or to another errno. */
  readonly without?: Without;
}

export const attempts: readonly Attempt[] = [
  // Namespaces
  {
    verb: 'unshare-user',
    tries: 'a user namespace, to be root in it',
    layer: 'namespaces',
    without: 'bare',
  },
  { verb: 'clone-user', tries: 'the same with clone(2)', layer: 'namespaces', without: 'bare' },
  {
    verb: 'clone3-user',
    tries: 'the same with clone3(2), whose flags a filter cannot see',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'unshare-mounts',
    tries: 'a mount namespace of its own',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'unshare-pids',
    tries: 'a pid namespace of its own',
    layer: 'namespaces',
    without: 'bare',
  },
  { verb: 'unshare-network', tries: 'a network of its own', layer: 'namespaces', without: 'bare' },
  {
    verb: 'unshare-cgroups',
    tries: 'a cgroup namespace of its own',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'enter-init-namespace',
    tries: 'the namespaces of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'trace-init',
    tries: 'tracing the init, to make it lie',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'read-init-memory',
    tries: 'the memory of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'open-init-memory',
    tries: 'the memory of the init as a file',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'take-init-descriptor',
    tries: 'the connection to kiln, to forge answers',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'list-init-descriptors',
    tries: 'what the init has open',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'open-init-root',
    tries: 'the root directory of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'read-init-environment',
    tries: 'the environment of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'init-oom-score',
    tries: 'that the init is killed first when memory is short',
    layer: 'namespaces',
    as: 'user', // root of the box may harm its own init, and so end its own box
  },
  { verb: 'kill-init', tries: 'killing the init', layer: 'namespaces' },
  { verb: 'see-other-processes', tries: 'processes of the host', layer: 'namespaces' },
  {
    verb: 'cgroup-names',
    tries: 'where in the host’s cgroups it is',
    layer: 'namespaces',
    without: 'cgroup-namespace',
  },
  {
    verb: 'host-shared-memory',
    tries: 'shared memory of the host',
    layer: 'namespaces',
    as: 'root',
  },
  // Files and what the kernel shows as files
  { verb: 'kernel-symbols', tries: 'the kernel’s addresses', layer: 'files', without: 'proc' },
  { verb: 'key-users', tries: 'who has keys in the kernel', layer: 'files', without: 'proc' },
  {
    verb: 'interrupts',
    tries: 'the host’s interrupts (a side channel)',
    layer: 'files',
    without: 'proc',
  },
  {
    verb: 'kernel-command-line',
    tries: 'the kernel’s command line, which may hold secrets',
    layer: 'files',
    without: 'proc',
  },
  { verb: 'disks', tries: 'the host’s disks', layer: 'files', without: 'proc' },
  { verb: 'disk-statistics', tries: 'what they are doing', layer: 'files', without: 'proc' },
  { verb: 'physical-memory', tries: 'the map of physical memory', layer: 'files', without: 'proc' },
  { verb: 'pressure', tries: 'how busy the host is', layer: 'files', without: 'proc' },
  { verb: 'kernel-core', tries: 'all memory (/proc/kcore)', layer: 'files' },
  {
    verb: 'core-pattern',
    tries: 'a program the host runs as root when something crashes',
    layer: 'files',
  },
  { verb: 'irq-affinity', tries: 'the host’s interrupts', layer: 'files' },
  { verb: 'network-sysctl', tries: 'routing', layer: 'files', as: 'root', without: 'bare' },
  {
    verb: 'namespace-sysctl',
    tries: 'its own limit of namespaces',
    layer: 'files',
    as: 'root',
    without: 'bare',
  },
  { verb: 'sysrq', tries: 'sysrq-trigger', layer: 'files' },
  {
    verb: 'uevent-helper',
    tries: 'a program the host runs as root at the next event',
    layer: 'files',
  },
  {
    verb: 'release-agent',
    tries: 'a program the host runs as root when a cgroup is empty',
    layer: 'files',
  },
  { verb: 'cgroup-tree', tries: 'the host’s cgroups', layer: 'files' },
  { verb: 'old-root', tries: 'the root it came from', layer: 'files' },
  { verb: 'control-socket', tries: 'the socket of the init', layer: 'files' },
  { verb: 'host-devices', tries: '/dev/kmsg, kvm, fuse, tun, disks, the console', layer: 'files' },
  { verb: 'inherited-descriptors', tries: 'what somebody left open', layer: 'files' },
  {
    verb: 'setuid-file',
    tries: 'a setuid program of the image',
    layer: 'files',
    as: 'user',
    without: 'new-privileges',
  },
  {
    verb: 'capability-file',
    tries: 'a program with file capabilities',
    layer: 'files',
    as: 'user',
    without: 'new-privileges',
  },
  // Ids
  {
    verb: 'roots-file',
    tries: 'a file that only root reads',
    layer: 'ids',
    as: 'user',
    without: 'user',
  },
  { verb: 'take-file', tries: 'another’s file', layer: 'ids', as: 'user', without: 'user' },
  {
    verb: 'give-file-away',
    tries: 'giving a file to another',
    layer: 'ids',
    as: 'user',
    without: 'user',
  },
  { verb: 'become-another', tries: 'becoming root', layer: 'ids', as: 'user', without: 'user' },
  { verb: 'overlay-attribute', tries: 'the attributes overlayfs keeps for itself', layer: 'ids' },
  {
    verb: 'mount-disk',
    tries: 'a device node of a disk, to read it',
    layer: 'ids',
    without: 'rights',
  },
  // Capabilities
  { verb: 'raw-socket', tries: 'raw IP', layer: 'capabilities', without: 'rights' },
  {
    verb: 'change-interface',
    tries: 'changing an interface',
    layer: 'capabilities',
    without: 'rights',
  },
  {
    verb: 'low-port',
    tries: 'a port below 1024',
    layer: 'capabilities',
    as: 'user',
    without: 'rights',
  },
  {
    verb: 'chroot',
    tries: 'another root directory',
    layer: 'capabilities',
    as: 'user',
    without: 'rights',
  },
  { verb: 'sethostname', tries: 'the host name', layer: 'capabilities', without: 'rights' },
  { verb: 'mount-tmpfs', tries: 'mounting', layer: 'capabilities', without: 'rights' },
  { verb: 'mount-cgroups', tries: 'mounting cgroups', layer: 'capabilities', without: 'rights' },
  { verb: 'unmask', tries: 'unmounting a mask', layer: 'capabilities', without: 'rights' },
  {
    verb: 'remount-sysctl',
    tries: '/proc/sys writable again',
    layer: 'capabilities',
    without: 'rights',
  },
  {
    verb: 'copy-tree',
    tries: 'a mount of the whole tree, to pass it on',
    layer: 'capabilities',
    without: 'rights',
  },
  { verb: 'new-mount-api', tries: 'the new mount calls', layer: 'capabilities', without: 'rights' },
  { verb: 'pivot-root', tries: 'pivot_root', layer: 'capabilities', without: 'rights' },
  { verb: 'reboot', tries: 'reboot', layer: 'capabilities', without: 'rights' },
  // System calls
  { verb: 'add-key', tries: 'a key in the kernel', layer: 'seccomp', without: 'seccomp' },
  { verb: 'keyctl-session', tries: 'the session keyring', layer: 'seccomp', without: 'seccomp' },
  { verb: 'request-key', tries: 'asking the host for a key', layer: 'seccomp', without: 'seccomp' },
  { verb: 'bpf', tries: 'bpf(2)', layer: 'seccomp', without: 'seccomp' },
  { verb: 'userfaultfd', tries: 'userfaultfd(2)', layer: 'seccomp', without: 'seccomp' },
  { verb: 'io-uring', tries: 'io_uring', layer: 'seccomp', without: 'seccomp' },
  { verb: 'perf', tries: 'perf_event_open(2)', layer: 'seccomp', without: 'seccomp' },
  { verb: 'init-module', tries: 'loading a module', layer: 'seccomp' },
  { verb: 'finit-module', tries: 'the same from a file', layer: 'seccomp' },
  { verb: 'kexec', tries: 'another kernel', layer: 'seccomp' },
  { verb: 'kexec-file', tries: 'the same from a file', layer: 'seccomp' },
  { verb: 'clock-settime', tries: 'the clock', layer: 'seccomp', without: 'seccomp' },
  { verb: 'settimeofday', tries: 'the clock, the old way', layer: 'seccomp', without: 'seccomp' },
  { verb: 'swapon', tries: 'swap space', layer: 'seccomp' },
  {
    verb: 'file-handle',
    tries: 'file handles, which know no mounts',
    layer: 'seccomp',
    without: 'seccomp',
  },
  { verb: 'fanotify', tries: 'watching a whole file system', layer: 'seccomp', without: 'seccomp' },
  { verb: 'kernel-log', tries: 'the kernel’s log', layer: 'seccomp', without: 'rights' },
  { verb: 'iopl', tries: 'I/O ports', layer: 'seccomp', without: 'seccomp' },
  { verb: 'personality', tries: 'READ_IMPLIES_EXEC', layer: 'seccomp', without: 'seccomp' },
  {
    verb: 'ia32-add-key',
    tries: 'a key, by the 32-bit door',
    layer: 'seccomp',
    without: 'seccomp',
  },
  {
    verb: 'ia32-socketcall',
    tries: 'AF_VSOCK, by the 32-bit door',
    layer: 'seccomp',
    without: 'seccomp',
  },
  { verb: 'x32-getpid', tries: 'the x32 ABI', layer: 'seccomp', without: 'seccomp' },
  // Landlock
  {
    verb: 'make-disk',
    tries: 'a device node of a disk',
    layer: 'landlock',
    without: 'walls',
  },
  {
    verb: 'make-memory-device',
    tries: 'a device node of memory',
    layer: 'landlock',
    without: 'walls',
  },
  // Network
  {
    verb: 'host-loopback',
    tries: 'a server on the host’s loopback',
    layer: 'network',
    without: 'network',
  },
  {
    verb: 'abstract-socket',
    tries: 'an abstract socket of the host',
    layer: 'network',
    without: 'network',
  },
  {
    verb: 'other-interfaces',
    tries: 'the host’s interfaces',
    layer: 'network',
    without: 'network',
  },
  { verb: 'route-out', tries: 'a way out', layer: 'network', without: 'network' },
  {
    verb: 'vsock',
    tries: 'the machine’s own host (AF_VSOCK)',
    layer: 'network',
    without: 'seccomp',
  },
  { verb: 'packet-socket', tries: 'all packets', layer: 'network', without: 'rights' },
  { verb: 'crypto-socket', tries: 'AF_ALG', layer: 'network', without: 'seccomp' },
  {
    verb: 'bluetooth-socket',
    tries: 'protocols nobody needs',
    layer: 'network',
    without: 'seccomp',
  },
  { verb: 'audit-socket', tries: 'the audit log', layer: 'network', without: 'seccomp' },
  { verb: 'tiocsti', tries: 'typing on the caller’s terminal', layer: 'host side' },
  {
    verb: 'core-dump',
    tries: 'a core dump, which the host’s root may read',
    layer: 'host side',
    without: 'limits',
  },
];
