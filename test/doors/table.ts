/**
 * What stands around a command, for every way into a sandbox and every layer: what doors.test.ts measures from
 * inside, and what docs/doors.md says (scripts/write/doors.ts).
 */
import type { Capability } from '../../src/host/process/process.ts';

/** Layers that are the same behind every door, and what the probe finds of them. */
export const EVERYWHERE = {
  no_new_privs: 'set',
  ids: '65536 of its own',
  namespaces: 'all its own, but for the network where it is the host’s',
  descriptors: 'stdin, stdout, stderr',
  mounts: 'nosuid, nodev',
  devices: 'full null random tty urandom zero',
  'core dumps': 'none, and no way to have them',
  'shares of the host’s':
    '64 terminals, 1024 pending signals, 32 netlink sockets, an eighth of inotify, no io_setup',
  environment: 'nothing of the caller’s',
} as const;

/** Capabilities by the name that the table has for them. The bounding set is the same. */
export const CAPABILITIES = {
  none: [],
  NET_RAW: ['NET_RAW'],
  'root’s': [
    ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'NET_BIND_SERVICE'] as const),
    ...(['SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'] as const),
  ],
  'root’s, no SETFCAP': [
    ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'NET_BIND_SERVICE'] as const),
    ...(['SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'] as const),
  ],
  'root’s, SYS_ADMIN': [
    ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'NET_BIND_SERVICE'] as const),
    ...(['SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_ADMIN', 'SYS_CHROOT'] as const),
  ],
  'root’s, SYS_ADMIN, SYS_BOOT': [
    ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'NET_BIND_SERVICE'] as const),
    ...(['SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_ADMIN', 'SYS_BOOT', 'SYS_CHROOT'] as const),
  ],
  transaction: [
    ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID'] as const),
    ...(['SETFCAP', 'SETGID', 'SETUID', 'SYS_CHROOT'] as const),
  ],
} as const satisfies Readonly<Record<string, readonly Capability[]>>;

/** Of the calls that the probe tries, those that each filter lets through. */
const MOUNTS = [
  ...(['mount', 'umount2', 'open_tree', 'mount_setattr', 'unshare', 'setns'] as const),
  ...(['clone', 'clone3'] as const),
];
const TRACING = [
  ...(['ptrace', 'process_vm_readv', 'kcmp', 'pidfd_getfd', 'name_to_handle_at'] as const),
  'futex_waitv',
];
export const SECCOMP = {
  default: ['openat2', 'fallocate'],
  'default, AF_PACKET': ['openat2', 'fallocate', 'AF_PACKET'],
  'default-on-disk': ['openat2'],
  'default, no set-id': ['fallocate'],
  build: ['openat2', 'fallocate', ...TRACING],
  nested: ['openat2', 'fallocate', ...MOUNTS],
  boot: [
    ...(['openat2', 'fallocate', 'mount', 'umount2', 'open_tree', 'mount_setattr'] as const),
    'setns',
  ],
  'default, SYS_ADMIN': ['openat2', 'fallocate', 'bpf', ...MOUNTS],
} as const;

/** Families, types and protocols, as the probe tries them: linux/socket.h, linux/net.h, linux/in.h. */
const UNIX = ['1 1 0', '1 2 0', '1 3 0', '1 5 0'];
const INTERNET = ['2', '10'].flatMap((family) => [
  ...[`${family} 1 0`, `${family} 1 6`, `${family} 2 0`, `${family} 2 17`],
]);
const ROUTE = ['16 2 0', '16 3 0'];
const RAW = ['2', '10'].flatMap((family) =>
  [2, 4, 6, 17, 33, 41, 47, 50, 51, 108, 115, 132, 136, 262].map(
    (protocol) => `${family} 3 ${protocol}`,
  ),
);
export const SOCKETS = {
  'unix, TCP, UDP, route': [...UNIX, ...INTERNET, ...ROUTE],
  'unix, TCP, UDP, raw, packet, route': [
    ...[...UNIX, ...INTERNET, ...RAW, '17 2 0', '17 3 0', ...ROUTE],
  ],
  'unix, route': [...UNIX, ...ROUTE],
} as const satisfies Readonly<Record<string, readonly string[]>>;

/** Layers that a door decides. */
export interface Around {
  readonly user: 'build' | 'root';
  readonly capabilities: keyof typeof CAPABILITIES;
  readonly seccomp: keyof typeof SECCOMP;
  /** Which sockets it can make: `route` is netlink's. */
  readonly sockets: keyof typeof SOCKETS;
  /** Whose loopback it reaches; `no sockets` for a step that is kept from the network of its sandbox. */
  readonly network: 'its own' | 'the host’s' | 'no sockets';
  /** The host's abstract sockets: in another namespace, or behind Landlock. */
  readonly 'abstract sockets': 'elsewhere' | 'closed';
  /** Landlock's rules for files, tried with a device node. */
  readonly Landlock: 'files' | '–';
  /** Whether a file can have set-id bits. */
  readonly 'set-id': 'allowed' | 'refused';
  /** Namespaces that it can make. */
  readonly 'new namespaces': '–' | 'mnt' | 'user, net below user';
  /** Of /proc and /sys, what tells of the host and is not masked. */
  readonly 'host’s files':
    | '–'
    | '/proc/keys, /proc/key-users'
    | '/proc/keys, /proc/key-users, /proc/acpi'
    | '/sys/fs/cgroup';
  /** What is mounted but /, /dev and /proc. */
  readonly mounted: string;
  /** Of memory and processes: those that were asked for (1G, 200), or kiln's. */
  readonly limits: 'as asked' | 'default';
}

export const LAYERS = [
  ...(['user', 'capabilities', 'seccomp', 'sockets', 'network', 'abstract sockets'] as const),
  'Landlock',
  ...(['set-id', 'new namespaces', 'host’s files', 'mounted', 'limits'] as const),
] as const satisfies readonly (keyof Around)[];

interface DoorEntry {
  /** The module of src that starts the command. */
  readonly through: string;
  readonly around: Around;
  /** What of EVERYWHERE is otherwise, and why. */
  readonly otherwise?: Partial<Record<keyof typeof EVERYWHERE, string>>;
}

const TMP = '/run /tmp /var/tmp';

const USER: Around = {
  user: 'build',
  capabilities: 'none',
  seccomp: 'default',
  sockets: 'unix, TCP, UDP, route',
  network: 'its own',
  'abstract sockets': 'elsewhere',
  Landlock: 'files',
  'set-id': 'allowed',
  'new namespaces': '–',
  'host’s files': '–',
  mounted: TMP,
  limits: 'as asked',
};
const ROOT: Around = { ...USER, user: 'root', capabilities: 'root’s' };
const ONLINE = { network: 'the host’s', 'abstract sockets': 'closed' } as const;
const OFFLINE = {
  sockets: 'unix, route',
  network: 'no sockets',
  'abstract sockets': 'closed',
} as const;
const NESTED: Around = {
  ...{ ...USER, seccomp: 'nested', Landlock: '–' },
  ...{ 'new namespaces': 'user, net below user', 'host’s files': '/proc/keys, /proc/key-users' },
};
const BUILD: Around = { ...USER, mounted: `/builddir ${TMP}` };
const POST: Around = { ...BUILD, user: 'root', capabilities: 'transaction' };
const MOCK: Around = { ...ROOT, seccomp: 'default-on-disk', mounted: '', limits: 'default' };
const MOCK_USER: Around = { ...MOCK, user: 'build', capabilities: 'none' };
const MOCK_BUILD: Around = { ...BUILD, limits: 'default' };
const ON_DISK: Around = { ...USER, seccomp: 'default-on-disk' };
const SERVICE: Around = { ...ROOT, mounted: '/etc /run /tmp /usr /var /var/tmp' };

const run = (around: Around): DoorEntry => ({ through: 'jobs/run/run.ts', around });
const build = (around: Around): DoorEntry => ({
  through: 'jobs/rpmbuild/build-sandbox.ts',
  around,
});
const recipe = (around: Around): DoorEntry => ({
  through: 'jobs/recipe/recipe-sandbox.ts',
  around,
});
const mock = (around: Around): DoorEntry => ({ through: 'jobs/mock/root/root-sandbox.ts', around });

/** rpmbuild reads the requirements there, and leaves its own end of it to the script. */
const REQUIRES = { descriptors: 'stdin, stdout, stderr, 3 of rpmbuild’s' };

const DOORS = {
  run: run(USER),
  'run without the daemon': run(USER),
  'run --user root': run(ROOT),
  'run --network host': run({ ...USER, ...ONLINE }),
  'run --network host --user root': run({ ...ROOT, ...ONLINE }),
  'run --profile nested': run(NESTED),
  'run --profile nested --network host': run({ ...NESTED, ...ONLINE }),
  'run --cap-add NET_RAW': run({
    ...{ ...USER, capabilities: 'NET_RAW', seccomp: 'default, AF_PACKET' },
    sockets: 'unix, TCP, UDP, raw, packet, route',
  }),
  'run --user root --cap-add SYS_ADMIN': run({
    ...{ ...ROOT, capabilities: 'root’s, SYS_ADMIN', seccomp: 'default, SYS_ADMIN' },
    ...{ Landlock: '–', 'new namespaces': 'mnt' },
  }),
  'run --seccomp build': run({ ...USER, seccomp: 'build' }),
  'run --bind, writable': run({
    ...{ ...ROOT, capabilities: 'root’s, no SETFCAP', seccomp: 'default, no set-id' },
    ...{ 'set-id': 'refused', mounted: `/b ${TMP}` },
  }),
  'run --bind, cow': run({ ...ROOT, mounted: `/b ${TMP}` }),
  'run --on-disk': run(ON_DISK),
  'run --from': run(USER),
  'run of another architecture': run(USER),
  'run -r host': run({ ...USER, mounted: '/run /tmp /usr /var/tmp' }),
  'exec after a snapshot': { through: 'cli/shell.ts', around: ON_DISK },
  'exec after a rollback': { through: 'cli/shell.ts', around: ON_DISK },
  'exec in a fork': { through: 'cli/shell.ts', around: { ...USER, limits: 'default' } },
  shell: run(USER),
  'shell in a kept sandbox': { through: 'cli/shell.ts', around: USER },
  'shell in a kept sandbox with a network and a bind': {
    through: 'cli/shell.ts',
    around: {
      ...{ ...USER, ...ONLINE, seccomp: 'default, no set-id' },
      ...{ 'set-id': 'refused', mounted: `/b ${TMP}` },
    },
  },
  'shell in a kept nested sandbox with a network': {
    through: 'cli/shell.ts',
    around: { ...NESTED, ...ONLINE },
  },
  'build: %prep': build(BUILD),
  'build: %buildrequires': { ...build(BUILD), otherwise: REQUIRES },
  'build: %build': build(BUILD),
  'build: %install': build(BUILD),
  'build: %check': build(BUILD),
  'build: %post': build(POST),
  'build: %prep with a network': build({ ...BUILD, ...ONLINE }),
  'build: %buildrequires with a network': {
    ...build({ ...BUILD, ...ONLINE }),
    otherwise: REQUIRES,
  },
  'build: %build with a network': build({ ...BUILD, ...ONLINE }),
  'build: %install with a network': build({ ...BUILD, ...ONLINE }),
  'build: %check with a network': build({ ...BUILD, ...ONLINE }),
  'build: %post with a network': build({ ...POST, ...ONLINE }),
  'build --resume: %build': build(BUILD),
  'build --chain: %build': build(BUILD),
  'YAML recipe: step without a network': recipe({ ...USER, ...OFFLINE }),
  'YAML recipe: step with its network': recipe({ ...USER, ...ONLINE }),
  'YAML recipe, nested: step without a network': recipe({ ...NESTED, ...OFFLINE }),
  'YAML recipe, nested: step with its network': recipe({ ...NESTED, ...ONLINE }),
  'TypeScript recipe: step without a network': recipe({ ...USER, ...OFFLINE }),
  'TypeScript recipe: step with its network': recipe({ ...USER, ...ONLINE }),
  '%post of an image': {
    through: 'image/transaction/transaction-sandbox.ts',
    around: { ...MOCK, capabilities: 'transaction' },
  },
  'kiln-mock --rebuild: %build': build(MOCK_BUILD),
  'kiln-mock --chroot': mock(MOCK),
  'kiln-mock --chroot --unpriv': mock(MOCK_USER),
  'kiln-mock --shell': mock(MOCK),
  'kiln-mock --rebuild: %build with a network': build({ ...MOCK_BUILD, ...ONLINE }),
  'kiln-mock --chroot with a network': mock({ ...MOCK, ...ONLINE }),
  'kiln-mock --chroot --unpriv with a network': mock({ ...MOCK_USER, ...ONLINE }),
  'kiln-mock --shell with a network': mock({ ...MOCK, ...ONLINE }),
  'service unit': { through: 'service/supervisor/unit-host.ts', around: SERVICE },
  'service --boot: unit': {
    through: 'service/boot/booted-system.ts',
    around: {
      ...{
        ...SERVICE,
        capabilities: 'root’s, SYS_ADMIN, SYS_BOOT',
        seccomp: 'boot',
        Landlock: '–',
      },
      ...{ 'new namespaces': 'mnt', 'host’s files': '/sys/fs/cgroup', limits: 'default' },
      mounted: '/etc /run /run/lock /sys /sys/fs/cgroup /tmp /usr /var /var/tmp',
    },
    otherwise: { devices: 'console full null random tty urandom zero' },
  },
  'service execute': { through: 'service/supervisor/supervisor-server.ts', around: SERVICE },
  'service health': { through: 'service/supervisor/health.ts', around: SERVICE },
  'library: run': run(USER),
  'library: open sandbox': {
    through: 'serve/calls/sandbox.ts',
    around: { ...USER, limits: 'default' },
  },
} as const satisfies Readonly<Record<string, DoorEntry>>;

export type Door = keyof typeof DOORS;

export const doorNames = Object.keys(DOORS) as Door[];

/** An entry of the table, whatever it has. */
export function doorEntry(door: Door): DoorEntry {
  return DOORS[door];
}

/** Modules that start a command and are no door of the table, and why. */
export const NO_DOORS: Readonly<Record<string, string>> = {
  'jobs/run/disk-images.ts': 'runs kiln’s own script in a sandbox of -r host, which is one',
  'jobs/recipe/steps.ts': 'asks recipe-sandbox.ts, which is one',
  'jobs/mock/enter.ts': 'asks root-sandbox.ts, which is one',
  'doctor/checks/sandbox.ts': 'runs a command of kiln’s own in an empty sandbox',
};

/** Doors that do not lead into a machine: why, and how kiln refuses them where it can be asked. */
interface Closed {
  readonly why: string;
  readonly refusal?: RegExp;
}

const HOST_NETWORK: Closed = { why: 'the host’s network is refused', refusal: /host’s network/ };
const KEPT_ROOT: Closed = {
  why: 'a root that stays is for containers',
  refusal: /a machine cannot have a root that stays/,
};
const ON_DISK_ONLY = 'a root on the disk is refused';

const CLOSED: Readonly<Record<string, Closed>> = {
  'run --on-disk': { why: ON_DISK_ONLY, refusal: /a machine has no --on-disk/ },
  '%post of an image': { why: 'an image is made in a container' },
  'run of another architecture': { why: 'the kernel of a machine has no emulator' },
  'service --boot: unit': {
    why: 'a systemd needs a control group that is its own',
    refusal: /no control group that a systemd needs/,
  },
};

/** Why a door does not lead into a machine; undefined for one that does. */
export function closedInMachines(door: Door): Closed | undefined {
  if (CLOSED[door] !== undefined) return CLOSED[door];
  if (door.startsWith('kiln-mock ') && !door.includes('--rebuild')) return KEPT_ROOT;
  // A recipe's step with a network has a way to one host there.
  const isOnline = doorEntry(door).around.network === 'the host’s';
  return isOnline && !door.includes('recipe') ? HOST_NETWORK : undefined;
}

/**
 * What is around the command of a door in a machine: the same, but that no network there is the host's, and that its own
 * /proc has what this host's may lack.
 */
export function aroundInMachine(door: Door): Around {
  const { around } = doorEntry(door);
  if (around.seccomp === 'nested')
    return { ...inMachine(around), 'host’s files': '/proc/keys, /proc/key-users, /proc/acpi' };
  // These are measured on the disk in containers; a machine has no root there.
  if (around.seccomp === 'default-on-disk') return { ...inMachine(around), seccomp: 'default' };
  return inMachine(around);
}

function inMachine(around: Around): Around {
  const network = around.network === 'the host’s' ? 'its own' : around.network;
  return { ...around, network, 'abstract sockets': 'elsewhere' };
}

/** What is around every machine, looked at from the host while a command runs in it. */
export const AROUND_MACHINES = {
  'qemu: user': 'the last id of the sandbox’s, in no other group',
  'qemu: capabilities': 'none',
  'qemu: no_new_privs': 'set',
  'qemu: seccomp': 'a filter',
  'qemu: memory': 'what was asked for, and 864 MiB for the guest’s kernel and itself',
  'qemu: core dumps': 'none',
  'qemu: devices': 'null, urandom',
  'qemu: namespaces': 'cgroup and mnt of libvirt’s',
  'relay, outer: capabilities': 'KILL',
  'relay, outer: no_new_privs': 'set',
  'relay, inner: user': 'root of the sandbox’s ids',
  'relay, inner: no_new_privs': 'set',
  'relay, inner: seccomp': 'a filter',
  'relay, inner: namespaces': 'all its own',
  'virtiofsd: user': 'root of the sandbox’s ids',
  'virtiofsd: capabilities': 'CHOWN DAC_OVERRIDE FOWNER SETGID SETUID',
  'virtiofsd: no_new_privs': 'set',
  'virtiofsd: seccomp': 'two filters',
  'virtiofsd: namespaces': 'all its own',
  'virtiofsd: root': 'the shares',
  'relay and virtiofsd: memory': '1 GiB',
} as const;
