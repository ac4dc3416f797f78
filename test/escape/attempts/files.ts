import type { Attempt } from '../attempt.ts';

/** Of cgroup v1 alone. */
const RELEASE_AGENTS = ['', '/memory', '/systemd'].map(
  (hierarchy) => `/sys/fs/cgroup${hierarchy}/release_agent`,
);

/** Files, and what the kernel shows as files. */
export const fileAttempts: readonly Attempt[] = [
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
  {
    verb: 'locks',
    tries: 'which files are locked',
    layer: 'files',
    without: 'proc',
  },
  { verb: 'pressure', tries: 'how busy the host is', layer: 'files', without: 'proc' },
  {
    verb: 'kernel-core',
    tries: 'all memory (/proc/kcore)',
    layer: 'files',
    without: 'sandbox',
    attacks: ['/proc/kcore'],
  },
  {
    verb: 'core-pattern',
    tries: 'a program the host runs as root when something crashes',
    layer: 'files',
    without: 'sandbox',
  },
  {
    verb: 'irq-affinity',
    tries: 'the host’s interrupts',
    layer: 'files',
    without: 'sandbox',
  },
  { verb: 'network-sysctl', tries: 'routing', layer: 'files', as: 'root', without: 'bare' },
  {
    verb: 'namespace-sysctl',
    tries: 'its own limit of namespaces',
    layer: 'files',
    as: 'root',
    without: 'bare',
  },
  {
    verb: 'inotify-sysctl',
    tries: 'its own limit of inotify',
    layer: 'files',
    as: 'root',
    without: 'bare',
  },
  {
    verb: 'sysrq',
    tries: 'sysrq-trigger',
    layer: 'files',
    without: 'sandbox',
    attacks: ['/proc/sysrq-trigger'],
  },
  {
    verb: 'uevent-helper',
    tries: 'a program the host runs as root at the next event',
    layer: 'files',
    without: 'sandbox',
    attacks: ['/sys/kernel/uevent_helper'],
  },
  {
    verb: 'release-agent',
    tries: 'a program the host runs as root when a cgroup is empty',
    layer: 'files',
    without: 'sandbox',
    attacks: RELEASE_AGENTS,
  },
  {
    verb: 'cgroup-tree',
    tries: 'the host’s cgroups',
    layer: 'files',
    without: 'sandbox',
  },
  {
    verb: 'old-root',
    tries: 'the root it came from',
    layer: 'files',
    without: 'old-root',
  },
  {
    verb: 'control-socket',
    tries: 'the socket of the init',
    layer: 'files',
    without: 'old-root',
  },
  {
    verb: 'host-devices',
    tries: '/dev/kmsg, kvm, fuse, tun, disks, the console',
    layer: 'files',
    without: 'sandbox',
  },
  {
    verb: 'inherited-descriptors',
    tries: 'what somebody left open',
    layer: 'files',
    without: 'descriptors',
  },
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
];
