/**
 * Which options of each command users who are not root may give. An option without a rule does not compile, and
 * a command that is missing here is root's.
 */
import { defined } from '../../defined.ts';
import { isListed, parseEgressRule } from '../../egress/rule.ts';
import type { UserPolicy } from '../../users/configuration.ts';
import type { DetachOptions } from '../job/detach.ts';
import type { SandboxOptions } from '../options/sandbox-options.ts';
import type { ChainOptions } from '../rpmbuild/build-chain-options.ts';
import type { BuildOptions } from '../rpmbuild/build-options.ts';
import type { RecipeOptions } from '../rpmbuild/build-recipe-options.ts';
import type { RunOptions } from '../run.ts';

/** Options of one command by commander's names. */
export type Values = Readonly<Record<string, unknown>>;

/**
 * How a caller's path is used. `file`: read. `built`: read as the source of a build. `sources`: a folder whose
 * links are followed. `tree`: a file or folder, copied with its links. `place`: bound. `results`: a folder that
 * is written to. `result`: one file or folder that is written.
 */
export type PathKind = 'file' | 'built' | 'sources' | 'tree' | 'place' | 'results' | 'result';

export type Rule =
  /** Allowed: it affects only the user's own sandbox, within its share. */
  | 'open'
  /** Never allowed for users. */
  | { readonly kind: 'root'; readonly why: string }
  /** Allowed as far as the policy's `setting` says. */
  | {
      readonly kind: 'setting';
      readonly setting: string;
      readonly allows: (value: unknown, policy: UserPolicy, options: Values) => boolean;
    }
  /** One or several paths, each the value itself or its property `field`. */
  | { readonly kind: 'path'; readonly path: PathKind; readonly field?: 'source' | 'file' }
  /** The name of an image, not a path. */
  | 'image';

const CONFIRMS: Rule = { kind: 'root', why: 'it confirms what only root may do' };
const NOT_YET: Rule = { kind: 'root', why: 'it is not made for users yet' };

function path(kind: PathKind, field?: 'source' | 'file'): Rule {
  return { kind: 'path', path: kind, ...defined({ field }) };
}

function setting(
  name: string,
  allows: (value: unknown, policy: UserPolicy, options: Values) => boolean,
): Rule {
  return { kind: 'setting', setting: `users.${name}`, allows };
}

function every<Item>(value: unknown, holds: (item: Item) => boolean): boolean {
  return Array.isArray(value) && value.every((item: Item) => holds(item));
}

/** A listed host with all requested ports. */
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

const KEEP = setting('limits.keep', (value, { limits }) => Number(value) <= limits.keep);

/** A share without a bound is bounded by the machine. */
function within(limit: 'memory' | 'cpus' | 'pids' | 'disk'): Rule {
  return setting(`limits.${limit}`, (value, { limits }) => {
    const most = limits[limit];
    const share = limit === 'disk' ? 1 : limits.sandboxes;
    return most === undefined || Number(value) * share <= most;
  });
}

const LIMITS = {
  memory: within('memory'),
  cpus: within('cpus'),
  pids: within('pids'),
  disk: within('disk'),
  ioRead: 'open',
  ioWrite: 'open',
  timeout: 'open',
  stallTimeout: 'open',
} as const satisfies Record<string, Rule>;

export const SHIPPED_PROFILES: readonly unknown[] = ['default', 'build', 'strict'];

const SANDBOX: Readonly<Record<keyof SandboxOptions, Rule>> = {
  ...LIMITS,
  image: 'image',
  bind: path('place', 'source'),
  allowHostWrite: CONFIRMS,
  tmpfs: 'open',
  copyIn: path('tree', 'source'),
  env: 'open',
  workdir: 'open',
  user: 'open',
  hostname: 'open',
  network: NETWORK,
  allowHostNetwork: CONFIRMS,
  egress: EGRESS,
  capAdd: setting('capabilities', (value, { capabilities }) =>
    every(value, (name) => capabilities.some((allowed) => allowed === name)),
  ),
  profile: { kind: 'root', why: 'sandboxes in a sandbox need its whole /proc' },
  seccomp: {
    kind: 'setting',
    setting: 'no setting: users have the profiles default, build and strict',
    allows: (value) => SHIPPED_PROFILES.includes(value),
  },
  label: { kind: 'root', why: 'a label says what the host’s security module lets it do' },
  secret: path('file', 'file'),
  allowMissing: { kind: 'root', why: 'it takes a layer of the isolation away' },
  artifact: 'open',
  resultdir: path('results'),
  keep: KEEP,
};

const DETACH = { detach: 'open', name: 'open' } as const satisfies Record<
  keyof DetachOptions,
  Rule
>;

const RUN: Readonly<Record<keyof RunOptions, Rule>> = {
  ...SANDBOX,
  ...DETACH,
  json: 'open',
  samples: 'open',
  tty: 'open',
  interactive: 'open',
  rm: 'open',
  explain: 'open',
};

const BUILD: Readonly<
  Record<keyof (BuildOptions & RecipeOptions & ChainOptions & DetachOptions), Rule>
> = {
  ...LIMITS,
  ...DETACH,
  image: 'image',
  spec: path('file'),
  sources: path('sources'),
  resultdir: path('results'),
  define: 'open',
  with: 'open',
  without: 'open',
  nocheck: 'open',
  target: 'open',
  rpmbuildOpts: 'open',
  shortCircuit: 'open',
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
    setting: 'no setting: users name packages, not files',
    allows: (value) => every<string>(value, (name) => /^[^/-][^/]*$/.test(name)),
  },
  addrepo: { kind: 'root', why: 'kilnd itself would ask whatever server it names' },
  cache: NOT_YET,
  keep: setting('limits.keep, and no --chain', (value, { limits }, { chain }) => {
    // Every package of a chain would keep a sandbox.
    return chain !== true && Number(value) <= limits.keep;
  }),
  lock: { kind: 'root', why: 'kilnd itself would ask whatever server it names' },
  resume: NOT_YET,
  postinstall: 'open',
  verify: 'open',
  vary: NOT_YET,
  provenanceKey: path('file'),
  signKey: path('file'),
  signPassphraseFile: path('file'),
  builderId: 'open',
  offline: 'open',
  update: 'open',
  json: 'open',
  samples: 'open',
  quiet: 'open',
  // It writes to a file that a variable names.
  ci: NOT_YET,
  chain: 'open',
  // Each of several sandboxes of a command would get a share.
  jobs: NOT_YET,
  continue: 'open',
  recurse: 'open',
  farm: { kind: 'root', why: 'your own kiln talks to a pool, not the daemon' },
  param: 'open',
  // admitRecipe() checks what the recipe then asks for.
  allowHost: 'open',
  allowHostWrite: CONFIRMS,
  bind: path('place', 'source'),
  schema: 'open',
};

/** What a user calls an image: no path, and nothing that other commands take for one. */
const NAME: Rule = {
  kind: 'setting',
  setting: 'no setting: a name is letters, digits and . _ + -',
  allows: (value) => isImageName(String(value)),
};

/** Whether it is the name of a recipe or image, or an id: no path. */
export function isImageName(text: string): boolean {
  return /^[A-Za-z0-9][\w.+-]*$/.test(text) && !/\.(?:ya?ml|json|cfg)$/.test(text);
}

/** A recipe of the user's own, by its path. */
export function isOwnImageRecipe(text: string): boolean {
  return /\.ya?ml$/.test(text);
}

interface CommandRules {
  readonly options: Readonly<Record<string, Rule>>;
  /** The rule for every argument. */
  readonly arguments: Rule;
}

/** By the command’s words, such as `image ls`. */
export const USER_COMMANDS: Readonly<Record<string, CommandRules>> = {
  run: { options: RUN, arguments: 'open' },
  shell: { options: SANDBOX, arguments: 'open' },
  build: { options: BUILD, arguments: path('built') },
  // Ids of others' sandboxes and jobs mean nothing to their own.
  attach: { options: {}, arguments: 'open' },
  wait: { options: {}, arguments: 'open' },
  logs: { options: { follow: 'open' }, arguments: 'open' },
  // The folder is opened by the client, as the command itself asks for.
  results: { options: {}, arguments: 'open' },
  ps: { options: { json: 'open', jobs: 'open', all: 'open', format: 'open' }, arguments: 'open' },
  kill: { options: { all: 'open' }, arguments: 'open' },
  gc: { options: { maxAge: 'open', json: 'open' }, arguments: 'open' },
  'image build': { options: { json: 'open', update: 'open' }, arguments: 'image' },
  'image ls': { options: { json: 'open', format: 'open' }, arguments: 'open' },
  'image show': { options: {}, arguments: 'image' },
  // Of those that are the user's: others' are not found, root's not removed.
  'image rm': { options: {}, arguments: 'image' },
  'image import': {
    options: { name: NAME, disk: LIMITS.disk, json: 'open' },
    arguments: path('sources'),
  },
  'image export': { options: { output: path('result'), compress: 'open' }, arguments: 'image' },
  // Both are refused without users.farm: see admitWorker().
  'farm advertise': { options: {}, arguments: 'open' },
  // Files of a step are fetched and checked after it was read.
  'farm step': { options: { resultdir: path('results'), worker: 'open' }, arguments: 'open' },
  'config show': { options: {}, arguments: 'open' },
  complete: { options: {}, arguments: 'open' },
  completion: { options: {}, arguments: 'open' },
  'image schema': { options: {}, arguments: 'open' },
};
