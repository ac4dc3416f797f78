/**
 * The wire between kiln and the init of a sandbox (src/guest): the one table of its messages, their fields, and
 * the init's failures. Both ends are made from it: scripts/write/wire.ts writes dist/wire/wire.h and wire.c,
 * and codec.ts reads it directly.
 *
 * A message is { u32 length, u32 type, payload[length] }. Its payload is a sequence of fields { u32 tag, u32
 * length, bytes[length] }, and the bytes of a field are its parts, one after the other. Numbers are in the
 * host's byte order: both ends share a kernel. Descriptors travel with the first byte of their message. Each
 * end refuses a message with a missing or extra field, or with a part that does not match this table.
 */

/** Bounds in bytes; `descriptors` is the most descriptors of a message, `lowerLayers` the most snapshots of a root. */
export const WIRE = {
  /** More than the kernel takes as arguments and environment (2 MiB). */
  request: 4 << 20,
  answer: 64 << 10,
  descriptors: 64,
  lowerLayers: 32,
  guestBinds: 64,
} as const;

export type Part =
  | { readonly kind: 'u32'; readonly most: number }
  | { readonly kind: 'i32' }
  /** A number up to 2^53; `Infinity` is the highest. */
  | { readonly kind: 'u64' }
  /** Bytes of a tmpfs, 1 to 2^53: one that is told 0, or more than it can count, has no bound (tmpfs(5)). */
  | { readonly kind: 'size' }
  | { readonly kind: 'mask' }
  | { readonly kind: 'flag' }
  | {
      readonly kind: 'choice';
      readonly of: Readonly<Record<string, number>>;
      readonly prefix: string;
    }
  | { readonly kind: 'set'; readonly of: Readonly<Record<string, number>>; readonly prefix: string }
  /** u32: one of the message's descriptors, counted from 0. */
  | { readonly kind: 'descriptor' }
  /** Four bytes in network order; dotted. */
  | { readonly kind: 'ipv4' }
  /**
   * Bytes up to and including a NUL, at most `most` before it. A path is absolute; a name has no slash and does
   * not begin with a dot.
   */
  | { readonly kind: 'text' | 'path' | 'name'; readonly most: number }
  /**
   * The rest of the field: a number of `unit` bytes each, `most` bytes in all. At least one unit if a unit is
   * more than a byte, because an empty filter is none.
   */
  | { readonly kind: 'bytes'; readonly unit: number; readonly most: number };

interface Field {
  readonly tag: number;
  readonly parts: Readonly<Record<string, Part>>;
}

/** struct winsize of ioctl_tty(2) */
const cells = { kind: 'u32', most: 0xffff } as const;
const u32 = { kind: 'u32', most: 0xffff_ffff } as const;
const u64 = { kind: 'u64' } as const;
const size = { kind: 'size' } as const;
const flag = { kind: 'flag' } as const;
const descriptor = { kind: 'descriptor' } as const;
const ipv4 = { kind: 'ipv4' } as const;
/** chmod(2) */
const mode = { kind: 'u32', most: 0o7777 } as const;
/** limits.h: PATH_MAX */
const path = { kind: 'path', most: 4095 } as const;
const anyText = { kind: 'text', most: WIRE.request } as const;
const content = { kind: 'bytes', unit: 1, most: WIRE.request } as const;
/** struct sock_filter[] of BPF_MAXINSNS at the most. */
const filter = { kind: 'bytes', unit: 8, most: 8 * 4096 } as const;
const label = { kind: 'text', most: 1023 } as const;
const lines = { kind: 'text', most: 48 << 10 } as const;

export type FailureRow = readonly [code: number, words: string, layer?: string];

/**
 * Failures of the init: the number, the end of "could not", and the layer that is not in force. `{text}` and
 * `{number}` are details of the failure.
 */
export const FAILURES = {
  'session-keyring': [1, 'join a new session keyring'],
  'cgroup-namespace': [2, 'unshare the cgroup namespace'],
  'time-namespace': [3, 'unshare the time namespace'],
  'pid-namespace': [4, 'unshare the pid namespace'],
  'init-label': [5, 'take on the init’s label'],
  'other-labels': [6, 'know the labels it was prepared with'],
  fork: [7, 'fork'],
  'kept-back': [8, 'receive descriptor {number}'],
  'private-mounts': [9, 'make mounts private'],
  'fresh-proc': [10, 'make a fresh /proc'],
  mount: [11, 'mount {text}'],
  'attach-device': [12, 'attach device {text}'],
  'device-links': [13, 'make links in /dev'],
  'prepare-rules': [14, 'close {text} before there is an image'],
  hostname: [15, 'set host name {text}'],
  image: [16, 'attach image'],
  scratch: [17, 'mount scratch space'],
  'stat-image': [18, 'stat image'],
  upper: [19, 'make upper directory'],
  names: [20, 'make a layer of names'],
  overlay: [21, 'mount overlay'],
  pivot: [22, 'pivot into the image'],
  tmpfs: [23, 'mount tmpfs on {text}'],
  bind: [24, 'bind {text}'],
  mask: [25, 'mask {text}'],
  readonly: [26, 'make read-only {text}'],
  write: [27, 'write {text}'],
  directory: [28, 'make directory {text}'],
  'user-limit': [29, 'limit {text}'],
  lend: [31, 'prepare what it makes in the place of commands'],
  layer: [32, 'make a layer for {text}'],
  snapshot: [33, 'attach the layer of a snapshot'],
  'guest-bind': [34, 'bind a place of the sandbox to {text}'],
  'measure-files': [30, 'get something to measure Landlock against'],

  'open-users': [40, 'container root is the host’s root', 'user-namespace'],
  'open-network': [41, 'an interface that was not asked for is in the sandbox', 'network'],
  'open-pids': [42, 'the init is not pid 1 of a nested one, and alone there', 'pid-namespace'],
  'open-cgroups': [43, 'the place in the host’s cgroups shows', 'cgroup-namespace'],
  'open-mounts': [
    44,
    'one is the host’s (cgroup, sysfs, devices), takes setuid or devices, or bounds no terminals',
    'mounts',
  ],
  'open-devices': [45, 'one that is not on the list is in /dev', 'devices'],
  unmasked: [46, '{text} shows what it should hide', 'masked-paths'],
  writable: [47, '{text} can be written to', 'read-only-paths'],
  'writable-bind': [48, '{text} can be written to', 'binds'],
  'no-user-limit': [49, '{text} is higher than it may be', 'user-limits'],

  'too-many-commands': [60, 'start another command: too many are running'],
  user: [62, 'find user {text}'],
  terminal: [63, 'open a terminal'],
  stdio: [64, 'hand over stdio'],
  setsid: [66, 'setsid'],
  'take-terminal': [67, 'take the terminal'],
  dup2: [68, 'dup2'],
  'oom-score': [69, 'oom_score_adj'],
  setrlimit: [70, 'setrlimit'],
  descriptors: [71, 'close descriptors'],
  privileges: [72, 'drop privileges'],
  chdir: [73, 'chdir {text}'],
  'command-label': [74, 'take on the label'],
  'no-new-privileges': [75, 'no_new_privs'],
  seccomp: [76, 'seccomp'],
  'seccomp-listener': [77, 'seccomp listener'],
  report: [78, 'report'],
  exec: [80, 'exec'],
  start: [81, 'start'],
  landlock: [82, 'not in force ({errno})', 'landlock'],
  'system-proc': [83, 'mount a /proc for the system'],
  'system-rules': [84, 'close /proc for the system'],
  'system-cgroups': [85, 'mount cgroups for the system'],
  'system-console': [86, 'make a console for the system'],
  'open-system-proc': [87, 'the system’s /proc shows what it should hide', 'boot'],
  'open-system-cgroups': [88, 'the cgroup tree is the host’s', 'boot'],

  'has-limits': [100, 'not in force on the command', 'limits'],
  'has-privileges': [101, 'not in force on the command', 'no_new_privs'],
  'has-seccomp': [102, 'not in force on the command', 'seccomp'],
  'has-user': [103, 'not in force on the command', 'user'],
  'has-capabilities': [104, 'not in force on the command', 'capabilities'],
  'has-set-id': [105, 'not in force on the command', 'set-id'],
  'has-sockets': [106, 'not in force on the command', 'abstract-sockets'],
  'has-descriptors': [107, 'not in force on the command', 'descriptors'],
  'has-selinux': [108, 'not in force on the command', 'selinux'],
  'has-apparmor': [109, 'not in force on the command', 'apparmor'],
  'has-no-status': [110, 'not in force on the command', 'status'],

  'make-directories': [120, 'make directories'],
  socket: [121, 'make a socket'],
  adopt: [122, 'watch a process'],
  'kill-session': [123, 'signal a session'],
  'notify-socket': [124, 'make the notify socket'],
  'dhcp-socket': [125, 'make a socket for DHCP'],
  address: [126, 'set an address'],
  'no-layer': [127, 'hand over a layer'],

  'machine-limit': [130, 'limit {text}'],
} as const satisfies Readonly<Record<string, FailureRow>>;

type Failure = keyof typeof FAILURES;

const failureCodes = Object.fromEntries(
  Object.entries(FAILURES).map(([name, [code]]) => [name, code]),
) as Readonly<Record<Failure, number>>;

export const FIELDS = {
  hostname: { tag: 1, parts: { name: { kind: 'text', most: 64 } } },
  lower: { tag: 2, parts: { fd: descriptor } },
  /** Above the image: the layer of a snapshot. The lowest comes first. */
  'lower-layer': { tag: 48, parts: { fd: descriptor } },
  /** Upper and work directory on a tmpfs of this many bytes. */
  'scratch-tmpfs': { tag: 3, parts: { bytes: size } },
  scratch: { tag: 4, parts: { fd: descriptor } },
  network: { tag: 5, parts: {} },
  tmpfs: { tag: 6, parts: { mode, bytes: size, path } },
  bind: {
    tag: 7,
    parts: {
      fd: descriptor,
      /**
       * Who can write to it. `host`: the sandbox, in a folder that other users of the host may reach.
       * `readonly`: nobody. `own`: the sandbox, in a folder that only root of the host can reach. `cow`: the sandbox,
       * in a layer of its own; the descriptor's mount is read-only.
       */
      access: { kind: 'choice', of: { host: 0, readonly: 1, own: 2, cow: 3 }, prefix: 'BIND' },
      directory: flag,
      path,
    },
  },
  /** A place of the sandbox, with what is mounted below, seen at another. */
  'guest-bind': { tag: 49, parts: { readonly: flag, source: path, path } },
  mask: { tag: 8, parts: { path } },
  readonly: { tag: 9, parts: { path } },
  file: { tag: 10, parts: { mode, uid: u32, gid: u32, path, content } },
  directory: { tag: 11, parts: { mode, uid: u32, gid: u32, path } },
  /** A file of /proc/sys/user. */
  'user-limit': { tag: 12, parts: { name: { kind: 'name', most: 63 }, most: u32 } },
  label: {
    tag: 14,
    parts: {
      module: { kind: 'choice', of: { selinux: 1, apparmor: 2 }, prefix: 'LABEL' },
      init: label,
      command: label,
      files: label,
    },
  },
  /** Seconds for which the sandbox waits for another connection. */
  wait: { tag: 15, parts: { seconds: u32 } },
  'etc-file': { tag: 16, parts: { name: { kind: 'name', most: 255 }, content } },

  id: { tag: 20, parts: { id: u32 } },
  argument: { tag: 21, parts: { argument: anyText } },
  variable: { tag: 22, parts: { variable: anyText } },
  workdir: { tag: 23, parts: { workdir: anyText } },
  /** NAME|UID[:GROUP|GID] */
  user: { tag: 24, parts: { user: anyText } },
  /** Bit n: capability n stays in the bounding set, and is permitted and effective for container root. */
  capabilities: { tag: 25, parts: { capabilities: { kind: 'mask' } } },
  seccomp: { tag: 26, parts: { filter } },
  verdicts: { tag: 27, parts: { filter } },
  rlimit: { tag: 28, parts: { resource: { kind: 'u32', most: 15 }, soft: u64, hard: u64 } },
  terminal: { tag: 29, parts: { rows: cells, columns: cells } },
  umask: { tag: 30, parts: { umask: { kind: 'u32', most: 0o777 } } },
  landlock: {
    tag: 31,
    parts: {
      walls: {
        kind: 'set',
        /**
         * `files`: nothing outside the sandbox's root. `no-tcp`: no TCP, not even on loopback.
         * `abstract-sockets`: no abstract socket of other processes. `open-sockets` is no wall: abstract
         * sockets of the host's network may be open.
         */
        of: { files: 1, 'no-tcp': 2, 'abstract-sockets': 4, 'open-sockets': 8 },
        prefix: 'WALL',
      },
    },
  },
  /** Set if the command is a system's pid 1; closes that system's /proc. */
  boot: {
    tag: 32,
    parts: { rule: { kind: 'choice', of: { mask: 0, readonly: 1 }, prefix: 'RULE' }, path },
  },

  /** Set if the command is no program, but makes files of its input: src/artifacts/copy-in.ts. */
  unpack: { tag: 33, parts: {} },

  signal: { tag: 40, parts: { signal: { kind: 'u32', most: 64 } } },
  ttl: { tag: 41, parts: { seconds: u32 } },
  family: {
    tag: 42,
    parts: { family: { kind: 'choice', of: { ipv4: 2, ipv6: 10 }, prefix: 'FAMILY' } },
  },
  process: { tag: 43, parts: { pid: u32 } },
  /** sockaddr_un's */
  socket: { tag: 44, parts: { path: { kind: 'path', most: 107 } } },
  /** 0 is the root's, then those of binds with `cow`, in their order. */
  layer: { tag: 47, parts: { nth: u32 } },
  /** IFNAMSIZ */
  interface: { tag: 45, parts: { interface: { kind: 'name', most: 15 } } },
  /** A gateway of 0.0.0.0 means no gateway. */
  address: { tag: 46, parts: { address: ipv4, mask: ipv4, gateway: ipv4 } },

  failure: {
    tag: 60,
    parts: {
      failure: { kind: 'choice', of: failureCodes, prefix: 'FAIL' },
      error: { kind: 'u32', most: 4095 },
      number: u32,
      text: { kind: 'text', most: 4095 },
    },
  },
  facts: { tag: 61, parts: { facts: lines } },
  /** The status in the form of wait(2). */
  status: { tag: 62, parts: { status: u32 } },
  /** wait4(2) */
  usage: { tag: 63, parts: { userMicroseconds: u64, systemMicroseconds: u64, peakRssBytes: u64 } },
  /** A system call that the filter refused: AUDIT_ARCH_…, its number, SECCOMP_RET_… with its data. */
  refused: {
    tag: 64,
    parts: { architecture: u32, number: { kind: 'i32' }, action: u32, count: u32 },
  },
  value: { tag: 65, parts: { value: u32 } },
  said: { tag: 66, parts: { said: { kind: 'bytes', unit: 1, most: 4096 } } },

  port: { tag: 73, parts: { port: { kind: 'u32', most: 0xffff } } },
  /**
   * Of the nth network card of a machine, 16 bytes each, an IPv4 address in the first four: its own address, or the
   * network of a route and the way there.
   */
  card: {
    tag: 75,
    parts: {
      nth: { kind: 'u32', most: 255 },
      family: { kind: 'choice', of: { ipv4: 2, ipv6: 10 }, prefix: 'FAMILY' },
      prefix: { kind: 'u32', most: 128 },
      addresses: { kind: 'bytes', unit: 16, most: 32 },
    },
  },
  /** Of a descriptor in the message `setup`. */
  place: { tag: 77, parts: { nth: { kind: 'u32', most: WIRE.descriptors - 1 } } },
  /** What to pack, as src/guest/machine/pack.c reads it. An order of 4096 bytes has room for it. */
  patterns: { tag: 72, parts: { patterns: { kind: 'bytes', unit: 1, most: 3900 } } },
  /** Behind a link only the rights of these ids count, of the machine's kernel. */
  'read-file': { tag: 74, parts: { offset: u64, uid: u32, gid: u32, path } },
  /** Command lines wait for the processes' own memory, which may be a file that does not answer. */
  listing: { tag: 76, parts: { commands: flag } },
  /** Bytes, processes, and microseconds of a processor in each tenth of a second; `Infinity` is no limit. */
  'machine-limits': { tag: 70, parts: { memory: u64, pids: u64, quota: u64 } },
  /** What the control group of the sandbox in its machine has counted; `Infinity` where the kernel does not tell. */
  'machine-usage': {
    tag: 71,
    parts: {
      cpuMicroseconds: u64,
      cpuUserMicroseconds: u64,
      cpuSystemMicroseconds: u64,
      memoryBytes: u64,
      peakMemoryBytes: u64,
      sharedBytes: u64,
      oomKills: u64,
      peakPids: u64,
      pidsRefused: u64,
    },
  },
} as const satisfies Readonly<Record<string, Field>>;

export type FieldName = keyof typeof FIELDS;

export type Times = readonly [least: number, most: number];
const ONCE = [1, 1] as const;
const PERHAPS = [0, 1] as const;
const MANY = [0, 65536] as const;
/** More directories or files than this are a mistake. */
const SOME = [0, 4096] as const;

export interface Message {
  readonly type: number;
  readonly fields: Readonly<Partial<Record<FieldName, Times>>>;
  readonly descriptors?: Times;
}

export const REQUESTS = {
  /**
   * The first request: prepares what every sandbox has. Answered with `done`. Its rules for /proc count only if
   * the setup has the same ones in the same order.
   */
  prepare: { type: 14, fields: { label: PERHAPS, mask: SOME, readonly: SOME, wait: PERHAPS } },
  setup: {
    type: 1,
    fields: {
      hostname: ONCE,
      lower: ONCE,
      'scratch-tmpfs': PERHAPS,
      scratch: PERHAPS,
      'lower-layer': [0, WIRE.lowerLayers],
      network: PERHAPS,
      tmpfs: SOME,
      bind: SOME,
      'guest-bind': [0, WIRE.guestBinds],
      mask: SOME,
      readonly: SOME,
      file: SOME,
      directory: SOME,
      'user-limit': SOME,
      label: PERHAPS,
      'etc-file': SOME,
    },
    descriptors: [1, WIRE.descriptors],
  },
  /**
   * Starts a command. Answered with `started`. Its descriptors are stdin, stdout, stderr, or one socket for the
   * terminal's master.
   */
  exec: {
    type: 2,
    fields: {
      id: ONCE,
      argument: [1, MANY[1]],
      variable: MANY,
      workdir: ONCE,
      user: ONCE,
      capabilities: ONCE,
      seccomp: PERHAPS,
      verdicts: PERHAPS,
      rlimit: [0, 16],
      terminal: PERHAPS,
      umask: ONCE,
      landlock: ONCE,
      boot: [0, 64],
      unpack: PERHAPS,
    },
    descriptors: [1, 3],
  },
  signal: { type: 3, fields: { id: ONCE, signal: ONCE } },
  winsize: { type: 4, fields: { id: ONCE, terminal: ONCE } },
  /** Kills every process but the init. Answered with `quiet` when all are reaped. */
  'kill-all': { type: 5, fields: {} },
  keep: { type: 6, fields: { ttl: ONCE } },
  // Each of these is answered with `done`.
  directory: { type: 7, fields: { id: ONCE, directory: SOME } },
  socket: { type: 8, fields: { id: ONCE, family: ONCE }, descriptors: [1, 1] },
  /** Counts an orphan as a command from now on. Answered with its session. */
  adopt: { type: 9, fields: { id: ONCE, process: ONCE } },
  'kill-session': { type: 10, fields: { id: ONCE, process: ONCE, signal: ONCE } },
  'notify-socket': { type: 11, fields: { id: ONCE, socket: ONCE } },
  /** Sends a datagram socket of an interface, for DHCP, through its descriptor. Also allowed before `setup`. */
  'dhcp-socket': { type: 12, fields: { id: ONCE, interface: ONCE }, descriptors: [1, 1] },
  /** Sets the address of an interface. Also allowed before `setup`. */
  address: { type: 13, fields: { id: ONCE, interface: ONCE, address: ONCE } },

  /** Sends the folder that has a layer's `upper`, through the message's descriptor. */
  layer: { type: 15, fields: { id: ONCE, layer: ONCE }, descriptors: [1, 1] },

  /**
   * Ends every process, and makes another root for the commands to come. What is mounted in the old one, its files of
   * `etc-file` too, moves over. Answered with `done`, or with `failed`: the old root is there still, or the init ends.
   */
  root: {
    type: 16,
    fields: {
      id: ONCE,
      lower: ONCE,
      'scratch-tmpfs': PERHAPS,
      scratch: PERHAPS,
      'lower-layer': [0, WIRE.lowerLayers],
    },
    descriptors: [1, WIRE.descriptors],
  },

  // In a machine only: the relay gives those from here on to stage 0 (src/guest/machine), and no init gets them.
  /** Asks for facts about the machine's kernel. Answered with `machine-facts`. */
  machine: { type: 64, fields: { id: ONCE } },
  /** Sets limits of the sandbox. Answered with `limited`. */
  limit: { type: 65, fields: { id: ONCE, 'machine-limits': ONCE } },
  /** Packs files of the sandbox into the message's descriptor. Answered with `done`: 0, or why not (errno). */
  pack: { type: 66, fields: { id: ONCE, patterns: ONCE } },
  /**
   * A socket that listens on a port of the sandbox's loopback, to be passed through the message's descriptor. It
   * listens until that is closed. Answered with `done`: 0, or why not (errno).
   */
  listen: { type: 67, fields: { id: ONCE, port: ONCE } },
  /**
   * Writes the size of a plain file (u64) and a mebibyte of it into the message's descriptor. Answered with `done`: 0,
   * or why not (errno; EISDIR for what is no plain file).
   */
  read: { type: 68, fields: { id: ONCE, 'read-file': ONCE } },
  /** Answered with `done`: 1 where one of these file systems, each a text, is full. */
  full: { type: 69, fields: { id: ONCE, patterns: ONCE } },
  /**
   * A stream to what listens on a port of the sandbox's loopback, to be passed through the message's descriptor.
   * Answered with `done`: 0, or why not (errno).
   */
  connect: { type: 70, fields: { id: ONCE, port: ONCE } },
  /** Gives a card of the sandbox an address or a route. Answered with `done`: 0, or why not (errno). */
  'set-card': { type: 71, fields: { id: ONCE, card: ONCE } },
  /**
   * Mounts the file system in the file that the message's descriptor is a mount of: read-only, by the machine's kernel.
   * It takes the place of a descriptor of `setup`, which comes next. Answered with `done`: 0, or why not (errno).
   */
  'mount-image': { type: 72, fields: { id: ONCE, place: ONCE } },
  /**
   * Writes the processes of the sandbox into the message's descriptor, as src/guest/machine/look.c has them. Answered
   * with `done`: 0, or why not (errno).
   */
  processes: { type: 73, fields: { id: ONCE, listing: ONCE } },
  /**
   * The host may have changed folders that are below overlays: has the machine's kernel look up all names there anew.
   * Answered with `done`: 0, or why not (errno).
   */
  'forget-names': { type: 74, fields: { id: ONCE } },
} as const satisfies Readonly<Record<string, Message>>;

export const ANSWERS = {
  ready: { type: 101, fields: { facts: ONCE } },
  started: { type: 102, fields: { id: ONCE, process: ONCE, facts: ONCE } },
  /** `refused` are system calls that the command's filter refused, with the init's counts. */
  exited: { type: 103, fields: { id: ONCE, status: ONCE, usage: ONCE, refused: [0, 32] } },
  /** `id` is that of the request, 0 for the sandbox itself. */
  failed: { type: 104, fields: { id: ONCE, failure: ONCE } },
  quiet: { type: 105, fields: {} },
  done: { type: 106, fields: { id: ONCE, value: ONCE } },
  notify: { type: 107, fields: { process: ONCE, said: ONCE } },
  'machine-facts': { type: 108, fields: { id: ONCE, facts: ONCE } },
  /** What is in force. */
  limited: { type: 109, fields: { id: ONCE, 'machine-limits': ONCE } },
  /** Comes before `exited`, and each second. */
  used: { type: 110, fields: { 'machine-usage': ONCE } },
} as const satisfies Readonly<Record<string, Message>>;

export type RequestName = keyof typeof REQUESTS;
type AnswerName = keyof typeof ANSWERS;

type Value<P> = P extends { readonly kind: 'choice'; readonly of: infer C }
  ? keyof C
  : P extends { readonly kind: 'set'; readonly of: infer C }
    ? readonly (keyof C)[]
    : P extends { readonly kind: 'flag' }
      ? boolean
      : P extends { readonly kind: 'mask' }
        ? bigint
        : P extends { readonly kind: 'bytes' }
          ? Buffer
          : P extends { readonly kind: 'text' | 'path' | 'name' | 'ipv4' }
            ? string
            : number;

export type Parts<F extends FieldName> = {
  readonly [P in keyof (typeof FIELDS)[F]['parts']]: Value<(typeof FIELDS)[F]['parts'][P]>;
};

type FieldOf<F extends FieldName> = F extends FieldName ? { readonly op: F } & Parts<F> : never;

type FieldsOf<M extends Message> = M extends Message ? keyof M['fields'] & FieldName : never;

export type RequestField<R extends RequestName> = FieldOf<FieldsOf<(typeof REQUESTS)[R]>>;

type Single<M extends Message> = {
  [F in FieldsOf<M>]: M['fields'][F] extends typeof ONCE ? F : never;
}[FieldsOf<M>];
type Several<M extends Message> = Exclude<FieldsOf<M>, Single<M>>;
type Together<U> = (U extends unknown ? (one: U) => void : never) extends (all: infer A) => void
  ? A
  : never;

export type AnswerOf<A extends AnswerName> = A extends AnswerName
  ? { readonly type: A } & Together<
      { [F in FieldsOf<(typeof ANSWERS)[A]>]: Parts<F> }[Single<(typeof ANSWERS)[A]>] | object
    > & { readonly [F in Several<(typeof ANSWERS)[A]>]: readonly Parts<F>[] }
  : never;

export type Answer = AnswerOf<AnswerName>;

export type SetupOperation = RequestField<'setup'>;

export type PrepareOperation = FieldOf<'label' | 'mask' | 'readonly'>;
