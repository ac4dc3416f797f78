/** The options of a sandbox, and of the commands that make one or enter it: a row for each, in the order of help. */

import type { HeldPath } from '../host/files/held.ts';
import { ISOLATION } from '../sandbox/policy/ground-kinds.ts';
import { ALLOWABLE_LAYERS } from '../sandbox/policy/layers.ts';
import type { LimitName } from '../sandbox/policy/limits.ts';
import { PROTECTED } from '../sandbox/policy/protected.ts';
import type { Tmpfs } from '../sandbox/policy/specification.ts';
import { flag, negation, text } from './kind.ts';
import { LEAVE_KEYS, leaveKeys } from './leave-keys.ts';
import { SIZES, TIMES } from './measures.ts';
import * as numbers from './numbers.ts';
import * as places from './places.ts';
import { type Row, row, type ValuesOf } from './row.ts';
import {
  CONFIRMS,
  EGRESS,
  every,
  ISOLATION_RULE,
  MISSING_RULE,
  NETWORK,
  PUBLISH,
  path,
  ROOTS,
  root,
  SHIPPED_PROFILES,
  setting,
  share,
} from './rules.ts';
import * as texts from './texts.ts';

const JOBS: readonly string[] = ['run', 'shell', 'build'];
/** Who is in a shell may think for long. */
const TIMED: readonly string[] = ['run', 'build'];

export const SANDBOX_LIMITS = {
  memory: row(numbers.memory, share('memory'), {
    help: 'limit memory, such as 512M; files in /tmp count',
    defaults: JOBS,
  }),
  cpus: row(numbers.cpus, share('cpus'), {
    help: 'limit processor time to this many CPUs, such as 1.5',
    defaults: JOBS,
  }),
  pids: row(numbers.count, share('pids'), {
    help: 'limit the number of processes and threads',
    defaults: JOBS,
  }),
  ioRead: row(numbers.rate, 'open', {
    help: 'limit the bytes read per second from each disk, such as 10M',
    defaults: JOBS,
  }),
  ioWrite: row(numbers.rate, 'open', {
    help: 'limit the bytes written per second to each disk; see docs/sandboxes.md',
    defaults: JOBS,
  }),
} as const satisfies Readonly<Record<LimitName, Row>>;

/** Of builds as well. */
export const LIMITS = {
  ...SANDBOX_LIMITS,
  disk: row(numbers.size, share('disk'), {
    help: 'limit the size of each writable file system of the sandbox (default: 8G)',
    defaults: JOBS,
  }),
  timeout: row(numbers.time, 'open', {
    help: 'end the command after this time, such as 10m',
    defaults: TIMED,
  }),
  stallTimeout: row(numbers.time, 'open', {
    help: 'end the command when it has written nothing for this time',
    defaults: TIMED,
  }),
};

export type LimitValues = ValuesOf<typeof LIMITS>;

/** @param use what becomes of it @param usual what it is where nobody says */
export function image(use: string, usual = '') {
  const how = `the name or path of a recipe, a lock, or an image id; by default KILN_IMAGE, or what kiln.yaml says${usual}`;
  return row(places.image, 'open', {
    help: `${use} this image: ${how}`,
    short: 'r',
    variable: 'KILN_IMAGE',
    defaults: [...JOBS, 'service create'],
  });
}

/** @param more what else it allows, where there are recipes of other kinds */
export function allowHost(more = '') {
  const help = `${more}let an image recipe, or a lock, name files of the host outside of its folder; see docs/recipes.md`;
  // An image recipe's own files are opened by the user's client; what a build recipe asks for, admitRecipe() checks.
  return row(flag, 'open', { help });
}

export function allowHostWrite(where = '') {
  const help = `${where}allow writable binds of folders that the host itself needs; see docs/sandboxes.md`;
  return row(flag, CONFIRMS, { help });
}

export function bind(help: string) {
  return row(places.bind, 'open', { help, many: true, flag: 'bind' });
}

export function env(help: string) {
  return row(texts.env, 'open', { help, many: true });
}

/** @param help what is kept */
export function keep(help: string) {
  const allowed = setting(
    'limits.keep',
    (value, { limits }) => Number(value) <= limits.keep,
    TIMES,
  );
  return row(numbers.time, allowed, { help, preset: '1h' });
}

const CI_CHOICES = ['auto', 'github', 'gitlab', 'none'] as const;
export type CiChoice = (typeof CI_CHOICES)[number];

/** @param help what is done for the service */
export function ci(help: string) {
  const stays = () => 'what it writes for a CI service lies on the other machine';
  return row(texts.choice('service', CI_CHOICES), 'open', { help, stays });
}

/** It means the same for every command: see the hook in src/cli/commands.ts. */
export const quiet = row(flag, 'open', {
  help: 'print results, warnings and errors only: no progress, and no output of builds',
  short: 'q',
});

const tty = row(flag, 'open', { help: 'give the command a terminal', short: 't' });

const interactive = row(flag, 'open', {
  help: 'change nothing: the command always reads kiln’s stdin; for podman’s -it',
  short: 'i',
});

/** @param where it leaves a terminal */
export function detachKeys(where: string) {
  return row(leaveKeys, 'open', {
    help: `leave ${where} by these keys, ${LEAVE_KEYS} by default: what runs goes on, and \`kiln attach\` comes back; '' is none`,
    defaults: ['run', 'shell', 'exec', 'attach'],
  });
}

/**
 * What a run asks for: see RunRequest. A recipe's `sandbox:` has the same names; docs/recipes.md says which it lacks.
 */
export const SANDBOX = {
  image: image('use', ', or host: this host’s own /usr, read-only'),
  fromSnapshot: row(text('snapshot'), 'open', {
    flag: 'from',
    help: 'begin with the files of this snapshot, by its name or id: `kiln snapshot ls` lists them',
    stays: () => 'the snapshot lies on this machine',
  }),
  binds: {
    ...bind(
      'bind-mount a host path; how is rw, ro, cow (what is written lies in a layer: kiln diff, apply), image (SRC is a file with a squashfs, erofs or ext4; with --isolation vm also xfs), z, Z (relabel it for SELinux, see docs/labels.md) or nolinks (refuse one with symbolic links in it), or several with commas: SRC:DST:ro,z',
    ),
    short: 'v',
  },
  allowHostWrite: allowHostWrite(),
  protection: row(negation, 'open', {
    help: `let the command change ${PROTECTED.join(', ')} below writable binds, which other programs may run`,
    flag: 'protect',
    usual: true,
  }),
  protect: row(places.belowBind, 'open', {
    help: 'keep what lies at this path below each writable bind as it is, beside what --no-protect names',
    many: true,
  }),
  tmpfs: row(
    places.tmpfs,
    setting(
      'limits.disk',
      (value, { limits }) => every<Tmpfs>(value, ({ size = 0 }) => size <= limits.disk),
      SIZES,
    ),
    { help: 'mount an empty file system that lives in memory', many: true },
  ),
  guestBinds: row(places.guestBind, 'open', {
    help: 'show a place of the sandbox at another one of it, too; both are absolute',
    many: true,
    flag: 'guestBind',
  }),
  copyIn: row(places.copyIn, 'open', {
    help: 'copy a file or folder of the host into the sandbox before the command starts',
    many: true,
  }),
  env: {
    ...env('set an environment variable; NAME alone copies it from the caller, if it is set there'),
    short: 'e',
  },
  workdir: row(text('dir'), 'open', {
    help: 'start the command in this folder of the sandbox',
    short: 'w',
  }),
  user: row(text('user'), 'open', {
    help: 'run the command as NAME, UID or UID:GID; root is root of the sandbox only',
    short: 'u',
  }),
  readOnly: row(flag, 'open', {
    help: 'mount the image read-only: /tmp, /var/tmp, /run, /dev/shm, --tmpfs and binds stay writable',
  }),
  hostname: row(texts.hostname, 'open', { help: 'give the sandbox this host name' }),
  network: row(texts.network, NETWORK, {
    help: 'choose the network: private or none (loopback only), host, or a libvirt network as NAME[,address=IP/PREFIX][,gateway=IP][,mac=MAC] and more, several times (without an address DHCP gives one); see docs/networks.md',
    usual: 'private',
    defaults: ['run', 'shell'],
  }),
  egress: row(texts.egress, EGRESS, {
    help: 'let the command reach this host through an HTTP proxy; *.HOST allows its subdomains; see docs/sandboxes.md',
    many: true,
  }),
  publish: row(texts.publish, PUBLISH, {
    help: 'forward this TCP port of the host to a port of the sandbox, at 127.0.0.1 unless an address is given; the sandbox needs no network for it',
    many: true,
    short: 'p',
  }),
  allowHostNetwork: row(flag, CONFIRMS, {
    help: 'allow --network host, which takes the isolation of the network away',
  }),
  ...LIMITS,
  capabilities: row(
    texts.capability,
    setting('capabilities', (value, { capabilities }) =>
      every(value, (name) => capabilities.some((allowed) => allowed === name)),
    ),
    {
      help: 'give the command one more capability, such as NET_BIND_SERVICE',
      many: true,
      flag: 'capAdd',
    },
  ),
  isolation: row(texts.choice('isolation', ISOLATION), ISOLATION_RULE, {
    help: 'choose what the sandbox stands on: container (the host’s kernel), or vm (a virtual machine with a kernel of its own); see docs/machines.md',
    usual: 'container',
    defaults: ['run', 'shell', 'build'],
  }),
  kernel: row(
    places.opened<HeldPath>('file', path('file')),
    root('users have the kernels of the host’s packages'),
    {
      help: 'boot this kernel in a machine; its modules are those of its version in /lib/modules',
      stays: () => 'the modules of the kernel lie on this machine',
    },
  ),
  profile: row(
    texts.choice('profile', ['default', 'nested']),
    root('sandboxes in a sandbox need its whole /proc'),
    {
      help: 'sandbox profile; nested allows sandboxes inside it',
      usual: 'default',
    },
  ),
  seccomp: row(
    places.seccomp,
    {
      kind: 'setting',
      instead: 'users have the profiles default, build and strict',
      allows: (value) => SHIPPED_PROFILES.includes(value),
    },
    {
      help: 'filter system calls by this profile: default, build (allows tracing), strict, aio (allows io_setup), or a JSON file in podman’s format',
      usual: 'default',
    },
  ),
  label: row(texts.label, root('a label says what the host’s security module lets it do'), {
    help: 'choose the SELinux or AppArmor label: auto, dynamic[:LABEL], static:LABEL, inherit or none',
  }),
  secrets: row(places.secret, 'open', {
    help: 'put a file of the host at /run/secrets/NAME, readable by the user of the command only',
    many: true,
    flag: 'secret',
  }),
  allowMissing: row(texts.layer, MISSING_RULE, {
    help: `run without this layer of protection if the host does not support it: ${ALLOWABLE_LAYERS.join(', ')}`,
    many: true,
  }),
  artifacts: row(text('glob'), 'open', {
    help: 'copy the files that match this pattern to --resultdir afterwards',
    many: true,
    flag: 'artifact',
  }),
  resultDirectory: row(places.opened<string>('dir', path('results')), 'open', {
    help: 'write artifacts and result.json to this folder',
    flag: 'resultdir',
  }),
  onDisk: row(flag, root('the kernel keeps no limit of what is written there'), {
    help: 'have what is written to the root lie on the disk of KILN_STATE, not in memory: `kiln snapshot` then copies nothing',
  }),
  keep: keep('keep the sandbox afterwards for this time, 1h by default; `kiln shell ID` enters it'),
};

/** What a sandbox stands on, of runs and builds. */
export const GROUND = { isolation: SANDBOX.isolation, allowMissing: SANDBOX.allowMissing };

export type SandboxOptions = ValuesOf<typeof SANDBOX>;

const NAME = row(text('name'), 'open', {
  help: 'the name of the sandbox, which commands take in place of the id; with --detach, of the job',
});

/** Of `kiln run` and `kiln shell`. */
export const SHELL = {
  ...SANDBOX,
  name: NAME,
  envFile: row(places.opened<HeldPath>('file', path('text')), 'open', {
    help: 'set the variables of a file that has NAME=VALUE a line, as podman does; --env counts before it',
    many: true,
  }),
  allowHost: allowHost(),
  detachKeys: detachKeys('the terminal of a sandbox that is kept, or of any with this option,'),
  quiet,
};

export type ShellOptions = ValuesOf<typeof SHELL>;

/** Of builds as well. */
export const DETACH = {
  detach: row(flag, 'open', {
    help: 'print an id once it has begun, and leave it to the daemon: see `kiln attach`, `wait`, `logs`, `results`',
    short: 'd',
  }),
  name: NAME,
};

export type DetachOptions = ValuesOf<typeof DETACH>;

export const RUN = {
  ...SHELL,
  entrypoint: row(text('word'), 'open', {
    help: "run this in place of the image’s ENTRYPOINT and CMD, before the words of the command; '' runs those alone",
  }),
  ...DETACH,
  json: row(flag, 'open', {
    help: 'print the result as JSON, as the last line of stderr; see docs/result.md',
  }),
  ci: ci(
    'look for errors of compilers and for tests in the output, for a CI service: annotations, junit.xml; see docs/ci.md',
  ),
  tty: { ...tty, help: `${tty.help} (colours, line editing, window size)` },
  interactive,
  file: row(text('file'), 'open', {
    help: 'take options, and the command, from this file in YAML, before those given here; see docs/jobs.md',
  }),
  save: row(places.opened<string>('file', path('result')), 'open', {
    help: 'write the options given, and the command, to this file, which --file takes; run nothing',
  }),
  rm: row(flag, 'open', {
    help: 'change nothing: the sandbox is destroyed unless --keep is given; for podman’s --rm',
  }),
  explain: row(flag, 'open', {
    help: 'print which layers of protection the command would have; run nothing',
  }),
  explainRefusals: row(flag, ROOTS, {
    help: 'say afterwards which system calls, paths and hosts were refused, which option would allow each, and which none does; the walls are as ever (strace listens, so it takes longer)',
  }),
  egressLearn: row(flag, ROOTS, {
    help: 'let the command reach every public host through the proxy, and print them as options: for commands that you trust, once',
  }),
  samples: row(negation, 'open', {
    help: 'do not record resource use over time in result.json',
    usual: true,
  }),
};

export type RunOptions = ValuesOf<typeof RUN>;

/** Of `kiln exec`. */
export const EXEC = {
  env: SANDBOX.env,
  workdir: SANDBOX.workdir,
  user: {
    ...SANDBOX.user,
    help: 'run the command as NAME, UID or UID:GID; by default as the user of the sandbox’s command',
  },
  publish: {
    ...SANDBOX.publish,
    help: 'forward this TCP port of the host to a port of the sandbox as long as the command runs',
  },
  copyIn: SANDBOX.copyIn,
  tty,
  interactive,
  detachKeys: detachKeys('the terminal'),
};

export type ExecOptions = ValuesOf<typeof EXEC>;
