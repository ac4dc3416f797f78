/**
 * Which options of each command users who are not root may give. An option without a rule does not compile, and
 * a command that is missing here is root's.
 */
import { defined } from '../../defined.ts';
import { isListed, parseEgressRule } from '../../egress/rule.ts';
import { isImageName } from '../../image/find.ts';
import { isRecipeName } from '../../jobs/recipe/request.ts';
import type { Tmpfs } from '../../sandbox/policy/specification.ts';
import { SIZES, TIMES, type UserPolicy } from '../../users/configuration.ts';
import type { DetachOptions } from '../job/detach.ts';
import { isProfileFile, type SandboxOptions } from '../options/sandbox-options.ts';
import type { BuildOptions, ChainOptions, RecipeOptions } from '../rpmbuild/build-options.ts';
import { isPackageOrSpec } from '../rpmbuild/build-request.ts';
import type { RunOptions } from '../run.ts';
import type { ExecOptions } from '../shell.ts';

export type Values = Readonly<Record<string, unknown>>;

/**
 * How a caller's path is used. `file`: read, and its name means something. `text`: the same, and errors may quote what
 * is in it. `content`: read, and its name means nothing. `built`: read as the source of a build. `sources`: a folder
 * whose links are followed. `tree`: a file or folder, copied with its links. `place`: bound. `results`: a folder that is
 * written to; `lone results`: by one build at a time. `result`: one file or folder that is written.
 */
export type PathKind =
  | 'file'
  | 'text'
  | 'content'
  | 'built'
  | 'sources'
  | 'tree'
  | 'place'
  | 'results'
  | 'lone results'
  | 'result';

export type Rule =
  /** Allowed: it affects only the user's own sandbox, within its share. */
  | 'open'
  | { readonly kind: 'root'; readonly why: string }
  | {
      readonly kind: 'setting';
      readonly setting?: string;
      /** What users have instead, where no setting of root's allows it. */
      readonly instead?: string;
      /** In which its numbers are written. */
      readonly units?: Readonly<Record<string, number>>;
      readonly allows: (value: unknown, policy: UserPolicy, options: Values) => boolean;
    }
  | {
      readonly kind: 'path';
      readonly path: PathKind;
      readonly field?: 'source' | 'file';
      /** Whether a value is a path: some may be names as well. */
      readonly where?: (value: string) => boolean;
    }
  | 'image';

const CONFIRMS: Rule = { kind: 'root', why: 'it confirms what only root may do' };

function path(kind: PathKind, field?: 'source' | 'file', where?: (value: string) => boolean): Rule {
  return { kind: 'path', path: kind, ...defined({ field, where }) };
}

function open<Name extends string>(...names: readonly Name[]): Readonly<Record<Name, 'open'>> {
  return Object.fromEntries(names.map((name) => [name, 'open'])) as Record<Name, 'open'>;
}

function setting(
  name: string,
  allows: (value: unknown, policy: UserPolicy, options: Values) => boolean,
  units?: Readonly<Record<string, number>>,
): Rule {
  return { kind: 'setting', setting: `users.${name}`, allows, ...defined({ units }) };
}

function every<Item>(value: unknown, holds: (item: Item) => boolean): boolean {
  return Array.isArray(value) && value.every((item: Item) => holds(item));
}

function bytesOf(value: unknown): number {
  if (!Array.isArray(value)) return Number.POSITIVE_INFINITY;
  return value.reduce((sum, { bytes }: { readonly bytes: number }) => sum + bytes, 0);
}

function isOpenHost(text: string, { egress }: UserPolicy): boolean {
  const wanted = parseEgressRule(text);
  const rules = egress.map(parseEgressRule).filter((rule) => rule !== undefined);
  if (wanted === undefined) return false;
  return wanted.ports.every((port) =>
    wanted.below
      ? rules.some(
          ({ host, below, ports }) =>
            below && ports.includes(port) && `.${wanted.host}`.endsWith(`.${host}`),
        )
      : isListed(rules, wanted.host, port),
  );
}

export const EGRESS = setting('egress', (value, policy) =>
  every<string>(value, (host) => isOpenHost(host, policy)),
);

/** A network's name, without settings that could take another one's address. */
export const NETWORK = setting(
  'networks',
  (value, { networks }) =>
    value === 'private' || value === 'none' || networks.some((name) => name === value),
);

const KEEP = setting('limits.keep', (value, { limits }) => Number(value) <= limits.keep, TIMES);

/**
 * A user may ask for a value that the setting allows to all of the user's sandboxes together; the setting of the
 * disk is for each sandbox. Without the setting any value is allowed: the machine is the only limit then.
 */
function within(limit: 'memory' | 'cpus' | 'pids' | 'disk'): Rule {
  const allows = (value: unknown, { limits }: UserPolicy) => {
    const most = limits[limit];
    const share = limit === 'disk' ? 1 : limits.sandboxes;
    return most === undefined || Number(value) * share <= most;
  };
  const isSize = limit === 'memory' || limit === 'disk';
  return setting(`limits.${limit}`, allows, isSize ? SIZES : undefined);
}

const LIMITS = {
  memory: within('memory'),
  cpus: within('cpus'),
  pids: within('pids'),
  disk: within('disk'),
  ...open('ioRead', 'ioWrite', 'timeout', 'stallTimeout'),
} as const satisfies Record<string, Rule>;

export const SHIPPED_PROFILES: readonly unknown[] = ['default', 'build', 'strict'];

const SANDBOX: Readonly<Record<keyof SandboxOptions, Rule>> = {
  ...LIMITS,
  image: 'image',
  bind: path('place', 'source'),
  // An image recipe's own files are opened by the user's client.
  allowHost: 'open',
  allowHostWrite: CONFIRMS,
  copyIn: path('tree', 'source'),
  tmpfs: setting(
    'limits.disk',
    (value, { limits }) => every<Tmpfs>(value, ({ bytes = 0 }) => bytes <= limits.disk),
    SIZES,
  ),
  ...open('env', 'workdir', 'user', 'hostname', 'artifact'),
  network: NETWORK,
  allowHostNetwork: CONFIRMS,
  egress: EGRESS,
  capAdd: setting('capabilities', (value, { capabilities }) =>
    every(value, (name) => capabilities.some((allowed) => allowed === name)),
  ),
  profile: { kind: 'root', why: 'sandboxes in a sandbox need its whole /proc' },
  seccomp: {
    kind: 'setting',
    instead: 'users have the profiles default, build and strict',
    allows: (value) => SHIPPED_PROFILES.includes(value),
  },
  label: { kind: 'root', why: 'a label says what the host’s security module lets it do' },
  secret: path('content', 'file'),
  allowMissing: { kind: 'root', why: 'it takes a layer of the isolation away' },
  resultdir: path('results'),
  keep: KEEP,
  quiet: 'open',
};

const DETACH: Readonly<Record<keyof DetachOptions, Rule>> = open('detach', 'name');

const RUN: Readonly<Record<keyof RunOptions, Rule>> = {
  ...SANDBOX,
  ...DETACH,
  ...open('json', 'samples', 'tty', 'interactive', 'rm', 'explain'),
};

const EXEC: Readonly<Record<keyof ExecOptions, Rule>> = {
  ...open('user', 'workdir', 'env', 'tty', 'interactive'),
  copyIn: path('tree', 'source'),
};

const BUILD: Readonly<
  Record<keyof (BuildOptions & RecipeOptions & ChainOptions & DetachOptions), Rule>
> = {
  ...LIMITS,
  ...DETACH,
  image: 'image',
  spec: path('text'),
  sources: path('sources'),
  resultdir: path('lone results'),
  ...open('define', 'with', 'without', 'nocheck', 'target', 'rpmbuildOpts', 'shortCircuit'),
  ...open(
    'postinstall',
    'verify',
    'vary',
    'builderId',
    'offline',
    'update',
    'json',
    'samples',
    'quiet',
  ),
  ...open('chain', 'continue', 'recurse', 'param', 'schema'),
  enableNetwork: {
    kind: 'setting',
    setting: 'users.egress, and --egress HOST for what the build may reach',
    // --egress has a rule of its own; without it, --network decides.
    allows: (_, { networks }, { egress, network }) =>
      (Array.isArray(egress) && egress.length > 0) || networks.some((name) => name === network),
  },
  network: NETWORK,
  egress: EGRESS,
  additionalPackage: {
    kind: 'setting',
    instead: 'users name packages, not files',
    allows: (value) => every<string>(value, (name) => /^[^/-][^/]*$/.test(name)),
  },
  addrepo: { kind: 'root', why: 'kilnd itself would ask whatever server it names' },
  cache: setting(
    'limits.disk, and no --keep',
    (value, { limits }, { keep }) => {
      // What is done in a kept sandbox has no watch on what it writes to a cache.
      return keep === undefined && bytesOf(value) <= limits.disk;
    },
    SIZES,
  ),
  keep: setting(
    'limits.keep, and no --chain',
    (value, { limits }, { chain }) => {
      // Every package of a chain would keep a sandbox.
      return chain !== true && Number(value) <= limits.keep;
    },
    TIMES,
  ),
  lock: { kind: 'root', why: 'kilnd itself would ask whatever server it names' },
  // Ids of others' sandboxes mean nothing to their own.
  resume: 'open',
  provenanceKey: path('content'),
  signKey: path('content'),
  signPassphraseFile: path('content'),
  ci: 'open',
  // Each counts as a sandbox, and starts when there is room for it.
  jobs: setting('limits.sandboxes', (value, { limits }) => Number(value) <= limits.sandboxes),
  farm: { kind: 'root', why: 'your own kiln talks to a pool, not the daemon' },
  // admitRecipe() checks what the recipe then asks for.
  allowHost: 'open',
  allowHostWrite: CONFIRMS,
  bind: path('place', 'source'),
};

export function isOwnImageRecipe(text: string): boolean {
  return /\.ya?ml$/.test(text);
}

export function isBuiltFile(text: string): boolean {
  return isRecipeName(text) || isPackageOrSpec(text) || !isImageName(text);
}

export interface CommandRules {
  readonly options: Readonly<Record<string, Rule>>;
  readonly arguments: Rule;
  /** The option with which another program takes the paths, by their names. */
  readonly givesNames?: string;
}

export const USER_COMMANDS: Readonly<Record<string, CommandRules>> = {
  run: { options: RUN, arguments: 'open' },
  shell: { options: SANDBOX, arguments: 'open' },
  exec: { options: EXEC, arguments: 'open' },
  build: { options: BUILD, arguments: path('built', undefined, isBuiltFile) },
  // What these then call has the rules of `run`, `exec` and `kill`.
  'ci gitlab config': { options: {}, arguments: 'open' },
  'ci gitlab prepare': { options: open('allowImage'), arguments: 'open' },
  'ci gitlab run': { options: {}, arguments: 'open' },
  'ci gitlab cleanup': { options: {}, arguments: 'open' },
  'ci github-hook': { options: open('allowImage'), arguments: 'open' },
  // Ids of others' sandboxes and jobs mean nothing to their own.
  attach: { options: {}, arguments: 'open' },
  wait: { options: {}, arguments: 'open' },
  logs: { options: open('follow'), arguments: 'open' },
  results: { options: {}, arguments: 'open' },
  ps: { options: open('json', 'jobs', 'all', 'format'), arguments: 'open' },
  kill: { options: open('all'), arguments: 'open' },
  df: { options: open('json', 'format'), arguments: 'open' },
  gc: { options: open('maxAge', 'json'), arguments: 'open' },
  'image build': { options: open('json', 'update', 'quiet', 'allowHost'), arguments: 'image' },
  // Only the user's own recipes: see lockRecipe().
  'image lock': {
    options: { output: path('result'), ...open('quiet', 'allowHost') },
    arguments: 'image',
  },
  'image ls': { options: open('json', 'format'), arguments: 'open' },
  'image show': { options: {}, arguments: 'image' },
  // Only the user's own: others' images are not found, root's are not removed.
  'image rm': { options: {}, arguments: 'image' },
  'image import': {
    options: { name: 'open', disk: LIMITS.disk, json: 'open' },
    arguments: path('sources'),
  },
  'image export': {
    options: { output: path('result'), ...open('compress', 'quiet', 'allowHost') },
    arguments: 'image',
  },
  // Both are refused without users.farm: see admitWorker().
  'farm advertise': { options: {}, arguments: 'open' },
  'farm step': { options: { resultdir: path('results'), worker: 'open' }, arguments: 'open' },
  'config show': { options: open('json'), arguments: 'open' },
  'config check': { options: {}, arguments: path('text') },
  complete: { options: {}, arguments: 'open' },
  completion: { options: {}, arguments: 'open' },
  version: { options: {}, arguments: 'open' },
  'image schema': { options: {}, arguments: 'open' },
};

/** What is root's alone, where it names files; beside the paths of the rules above. */
export const ROOT_COMMANDS: Readonly<Record<string, Partial<CommandRules>>> = {
  run: { options: { seccomp: path('text', undefined, isProfileFile) } },
  shell: { options: { seccomp: path('text', undefined, isProfileFile) } },
  build: { options: { lock: path('text') }, givesNames: 'farm' },
  'rpm query': { options: { keyring: path('content') } },
  'rpm verify': { options: { keyring: path('content') } },
  'rpm unpack': { options: { keyring: path('content') } },
};
