/**
 * Which options of each command users who are not root may give: their rows say it, and where there are none yet, this
 * file. An option without a rule does not compile, and a command that is missing here is root's.
 */
import { isImageName } from '../../image/find.ts';
import { isRecipeName } from '../../jobs/recipe/request.ts';
import { SIZES, TIMES } from '../../options/measures.ts';
import { rootsRules, usersRules } from '../../options/row.ts';
import {
  CONFIRMS,
  EGRESS,
  every,
  NETWORK,
  open,
  path,
  type Rule,
  root,
  setting,
} from '../../options/rules.ts';
import { DETACH, type DetachOptions, EXEC, LIMITS, RUN, SANDBOX } from '../../options/sandbox.ts';
import type { BuildOptions, ChainOptions, RecipeOptions } from '../rpmbuild/build-options.ts';
import { isPackageOrSpec } from '../rpmbuild/build-request.ts';

function bytesOf(value: unknown): number {
  if (!Array.isArray(value)) return Number.POSITIVE_INFINITY;
  return value.reduce((sum, { bytes }: { readonly bytes: number }) => sum + bytes, 0);
}

const BUILD: Readonly<
  Record<keyof (BuildOptions & RecipeOptions & ChainOptions & DetachOptions), Rule>
> = {
  ...usersRules({ ...LIMITS, ...DETACH }),
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
  addrepo: root('kilnd itself would ask whatever server it names'),
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
  lock: root('kilnd itself would ask whatever server it names'),
  // Ids of others' sandboxes mean nothing to their own.
  resume: 'open',
  provenanceKey: path('content'),
  signKey: path('content'),
  signPassphraseFile: path('content'),
  ci: 'open',
  // Each counts as a sandbox, and starts when there is room for it.
  jobs: setting('limits.sandboxes', (value, { limits }) => Number(value) <= limits.sandboxes),
  farm: root('your own kiln talks to a pool, not the daemon', false),
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
  run: { options: usersRules(RUN), arguments: 'open' },
  shell: { options: usersRules(SANDBOX), arguments: 'open' },
  exec: { options: usersRules(EXEC), arguments: 'open' },
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
    options: { name: 'open', disk: LIMITS.disk.users, json: 'open' },
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
  run: { options: rootsRules(RUN) },
  shell: { options: rootsRules(SANDBOX) },
  build: { options: { lock: path('text') }, givesNames: 'farm' },
  'rpm query': { options: { keyring: path('content') } },
  'rpm verify': { options: { keyring: path('content') } },
  'rpm unpack': { options: { keyring: path('content') } },
};

/** What an option names, whoever gives it. */
export function ruleOf(words: string, option: string): Rule | undefined {
  return ROOT_COMMANDS[words]?.options?.[option] ?? USER_COMMANDS[words]?.options[option];
}
