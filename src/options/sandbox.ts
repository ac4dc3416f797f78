/** The options of a sandbox, and of the commands that make one or enter it: a row for each, in the order of help. */
import { OPTIONAL_LAYERS } from '../sandbox/policy/layers.ts';
import type { LimitName } from '../sandbox/policy/limits.ts';
import type { Tmpfs } from '../sandbox/policy/specification.ts';
import * as kinds from './kinds.ts';
import { SIZES, TIMES } from './measures.ts';
import { type Row, row, type ValuesOf } from './row.ts';
import {
  CONFIRMS,
  EGRESS,
  every,
  NETWORK,
  root,
  SHIPPED_PROFILES,
  setting,
  share,
} from './rules.ts';

const JOBS: readonly string[] = ['run', 'shell', 'build'];
/** Who is in a shell may think for long. */
const TIMED: readonly string[] = ['run', 'build'];

export const SANDBOX_LIMITS = {
  memory: row(kinds.memory, share('memory'), 'limit memory, such as 512M; files in /tmp count', {
    part: 'limits',
    defaults: JOBS,
  }),
  cpus: row(kinds.cpus, share('cpus'), 'limit processor time to this many CPUs, such as 1.5', {
    part: 'limits',
    defaults: JOBS,
  }),
  pids: row(kinds.count, share('pids'), 'limit the number of processes and threads', {
    part: 'limits',
    defaults: JOBS,
  }),
  ioRead: row(kinds.rate, 'open', 'limit the bytes read per second from each disk, such as 10M', {
    part: 'limits',
    defaults: JOBS,
  }),
  ioWrite: row(
    kinds.rate,
    'open',
    'limit the bytes written per second to each disk; see docs/sandboxes.md',
    { part: 'limits', defaults: JOBS },
  ),
} as const satisfies Readonly<Record<LimitName, Row>>;

/** Of builds as well. */
export const LIMITS = {
  ...SANDBOX_LIMITS,
  disk: row(
    kinds.size,
    share('disk'),
    'limit the size of each writable file system of the sandbox (default: 8G)',
    { defaults: JOBS },
  ),
  timeout: row(kinds.time, 'open', 'end the command after this time, such as 10m', {
    part: 'time',
    defaults: TIMED,
  }),
  stallTimeout: row(
    kinds.time,
    'open',
    'end the command when it has written nothing for this time',
    { part: 'time', defaults: TIMED },
  ),
};

export type LimitValues = ValuesOf<typeof LIMITS>;

/** @param use what becomes of it */
export function image(use: string) {
  const how =
    'the name or path of a recipe, a lock, or an image id; by default KILN_IMAGE, or what kiln.yaml says';
  return row(kinds.image, 'open', `${use} this image: ${how}`, {
    short: 'r',
    variable: 'KILN_IMAGE',
    defaults: [...JOBS, 'service create'],
  });
}

/** @param more what else it allows, where there are recipes of other kinds */
export function allowHost(more = '') {
  const help = `${more}let an image recipe, or a lock, name files of the host outside of its folder; see docs/recipes.md`;
  // An image recipe's own files are opened by the user's client; what a build recipe asks for, admitRecipe() checks.
  return row(kinds.flag, 'open', help);
}

export function allowHostWrite(where = '') {
  const help = `${where}allow writable binds of directories that the host itself needs; see docs/sandboxes.md`;
  return row(kinds.flag, CONFIRMS, help);
}

export function env(help: string) {
  return row(kinds.env, 'open', help, { many: true });
}

/** @param help what is kept */
export function keep(help: string) {
  const allowed = setting(
    'limits.keep',
    (value, { limits }) => Number(value) <= limits.keep,
    TIMES,
  );
  return row(kinds.time, allowed, help, {
    preset: '1h',
    asked: ({ keepSeconds }) => (typeof keepSeconds === 'number' ? keepSeconds * 1000 : undefined),
  });
}

/** It means the same for every command: see the hook in src/cli/commands.ts. */
export const quiet = row(
  kinds.flag,
  'open',
  'print results, warnings and errors only: no progress, and no output of builds',
  { short: 'q' },
);

const tty = row(kinds.flag, 'open', 'give the command a terminal', { short: 't' });

const interactive = row(
  kinds.flag,
  'open',
  'change nothing: the command always reads kiln’s stdin; for podman’s -it',
  { short: 'i' },
);

/** Of `kiln run` and `kiln shell`. A recipe's `sandbox:` has the same names; docs/recipes.md says which it lacks. */
export const SANDBOX = {
  image: image('use'),
  bind: row(
    kinds.bind,
    'open',
    'bind-mount a host path; z or Z relabels it for SELinux, see docs/labels.md; nolinks refuses one with symbolic links in it',
    { short: 'v', many: true, field: 'binds' },
  ),
  allowHost: allowHost(),
  allowHostWrite: allowHostWrite(),
  tmpfs: row(
    kinds.tmpfs,
    setting(
      'limits.disk',
      (value, { limits }) => every<Tmpfs>(value, ({ bytes = 0 }) => bytes <= limits.disk),
      SIZES,
    ),
    'mount an empty file system that lives in memory',
    { many: true },
  ),
  copyIn: row(
    kinds.copyIn,
    'open',
    'copy a file or folder of the host into the sandbox before the command starts',
    { many: true },
  ),
  env: {
    ...env('set an environment variable; NAME alone copies it from the caller, if it is set there'),
    short: 'e',
  },
  workdir: row(kinds.text('dir'), 'open', 'start the command in this directory of the sandbox', {
    short: 'w',
  }),
  user: row(
    kinds.text('user'),
    'open',
    'run the command as NAME, UID or UID:GID; root is root of the sandbox only',
    { short: 'u' },
  ),
  hostname: row(kinds.hostname, 'open', 'give the sandbox this host name'),
  network: row(
    kinds.network,
    NETWORK,
    'choose the network: private or none (loopback only), host, or a libvirt network as NAME[,address=IP/PREFIX[,gateway=IP]][,mac=MAC] (without an address DHCP gives one)',
    { usual: 'private', defaults: ['run', 'shell'] },
  ),
  egress: row(
    kinds.egress,
    EGRESS,
    'let the command reach this host through an HTTP proxy; *.HOST allows its subdomains; see docs/sandboxes.md',
    { many: true },
  ),
  allowHostNetwork: row(
    kinds.flag,
    CONFIRMS,
    'allow --network host, which takes the isolation of the network away',
    { asked: ({ network }) => network === 'host' },
  ),
  ...LIMITS,
  capAdd: row(
    kinds.capability,
    setting('capabilities', (value, { capabilities }) =>
      every(value, (name) => capabilities.some((allowed) => allowed === name)),
    ),
    'give the command one more capability, such as NET_BIND_SERVICE',
    { many: true, field: 'capabilities', asked: ({ capAdd }) => capAdd },
  ),
  profile: row(
    kinds.choice('profile', ['default', 'nested']),
    root('sandboxes in a sandbox need its whole /proc'),
    'choose what the sandbox is for; nested allows sandboxes inside it',
    { usual: 'default', asked: ({ nested }) => (nested === true ? 'nested' : undefined) },
  ),
  seccomp: row(
    kinds.seccomp,
    {
      kind: 'setting',
      instead: 'users have the profiles default, build and strict',
      allows: (value) => SHIPPED_PROFILES.includes(value),
    },
    'filter system calls by this profile: default, build (allows tracing), strict, aio (allows io_setup), or a JSON file in podman’s format',
    {
      usual: 'default',
      // `--profile nested` brings its own.
      asked: ({ seccomp }) => (seccomp === 'default' || seccomp === 'nested' ? undefined : seccomp),
    },
  ),
  label: row(
    kinds.label,
    root('a label says what the host’s security module lets it do'),
    'choose the SELinux or AppArmor label: auto, dynamic[:LABEL], static:LABEL, inherit or none',
  ),
  secret: row(
    kinds.secret,
    'open',
    'put a file of the host at /run/secrets/NAME, readable by the user of the command only',
    { many: true, field: 'secrets' },
  ),
  allowMissing: row(
    kinds.layer,
    root('it takes a layer of the isolation away'),
    `run without this layer of protection if the host does not support it: ${OPTIONAL_LAYERS.join(', ')}`,
    { many: true },
  ),
  artifact: row(
    kinds.text('glob'),
    'open',
    'copy the files that match this pattern to --resultdir afterwards',
    { many: true, field: 'artifacts' },
  ),
  resultdir: row(kinds.results, 'open', 'write artifacts and result.json to this directory', {
    field: 'resultDirectory',
  }),
  keep: keep('keep the sandbox afterwards for this time, 1h by default; `kiln shell ID` enters it'),
  quiet,
};

export type SandboxOptions = ValuesOf<typeof SANDBOX>;

/** Of builds as well. */
export const DETACH = {
  detach: row(
    kinds.flag,
    'open',
    'print an id once it has begun, and leave it to the daemon: see `kiln attach`, `wait`, `logs`, `results`',
    { short: 'd' },
  ),
  name: row(kinds.text('name'), 'open', 'with --detach: call it so'),
};

export type DetachOptions = ValuesOf<typeof DETACH>;

export const RUN = {
  ...SANDBOX,
  ...DETACH,
  json: row(
    kinds.flag,
    'open',
    'print the result as JSON, as the last line of stderr; see docs/result.md',
  ),
  tty: { ...tty, help: `${tty.help} (colours, line editing, window size)` },
  interactive,
  rm: row(
    kinds.flag,
    'open',
    'change nothing: the sandbox is destroyed unless --keep is given; for podman’s --rm',
  ),
  explain: row(
    kinds.flag,
    'open',
    'print which layers of protection the command would have; run nothing',
  ),
  samples: row(kinds.negation, 'open', 'do not record resource use over time in result.json'),
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
  copyIn: SANDBOX.copyIn,
  tty,
  interactive,
};

export type ExecOptions = ValuesOf<typeof EXEC>;
