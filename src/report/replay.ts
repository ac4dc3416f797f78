import type { RecipeRequest } from '../jobs/recipe/request.ts';
import type { BuildRequest } from '../jobs/rpmbuild/request.ts';
import type { RunRequest } from '../jobs/run/request.ts';
import type { Result } from '../result/schema.ts';
import { LIMIT_NAMES, LIMITS } from '../sandbox/policy/limits.ts';
import { shellWord } from '../shell-words.ts';

type Fields = Readonly<Record<string, unknown>>;

/** The words of a command line that ask for a field of a request. result.json is a file: values can be anything. */
type Words = (value: unknown) => readonly string[];

/**
 * A command for a shell that does a job again. Values of environment variables and of parameters, and files of
 * secrets, are in no result: the first come from the caller's environment, for the others VALUE and FILE are places
 * to fill in.
 * @returns undefined where the request does not say what was asked for
 */
export function replayCommand({ request, image }: Result): string | undefined {
  const { argv, recipe } = request;
  if (recipe !== undefined) {
    const { given, path, parameters, allowHost } = fields(recipe);
    if (given === undefined || typeof path !== 'string') return undefined;
    return command('build', wordsOf(RECIPE, { ...fields(given), path, parameters, allowHost }));
  }
  if (Array.isArray(argv)) {
    const name = image?.name ?? request.image;
    if (typeof name !== 'string') return undefined;
    return command('run', [
      ...wordsOf(RUN, { ...request, image: name }),
      '--',
      ...argv.map(String),
    ]);
  }
  if (typeof fields(request.source).path !== 'string') return undefined;
  if (typeof request.image !== 'string') return undefined;
  return command('build', wordsOf(BUILD, request));
}

/** As chain.json has it. */
interface ReplayedChain {
  readonly request: Fields;
  readonly members: readonly { readonly source?: string | undefined }[];
  readonly farm?: unknown;
}

/** The same of a chain, or undefined. */
export function replayChain({ request, members, farm }: ReplayedChain): string | undefined {
  const { image, jobs, build, resultDirectory } = request;
  const sources = members.flatMap(({ source }) => source ?? []);
  const isWhole = sources.length > 0 && sources.length === members.length;
  if (build === undefined || !isWhole) return undefined;
  return command('build', [
    '--chain',
    ...(farm === undefined ? [] : ['--farm']),
    ...(typeof jobs === 'number' && jobs > 0 ? ['--jobs', String(jobs)] : []),
    ...flag('--continue')(request.continue),
    ...flag('--recurse')(request.recurse),
    ...wordsOf(BUILD, { ...fields(build), image, resultDirectory }),
    ...sources,
  ]);
}

function command(name: 'run' | 'build', words: readonly string[]): string {
  return ['kiln', name, ...words].map(shellWord).join(' ');
}

function wordsOf(table: Readonly<Record<string, Words>>, request: Fields): string[] {
  return Object.entries(table).flatMap(([field, words]) => words(request[field]));
}

/** Of fields that the command line does not have, or that another field says. */
const nothing: Words = () => [];

const limits: Words = (value) =>
  LIMIT_NAMES.flatMap((name) => option(`--${LIMITS[name].key}`)(fields(value)[name]));

const time: Words = (value) => [
  ...milliseconds('--timeout', fields(value).timeout),
  ...milliseconds('--stall-timeout', fields(value).stallTimeout),
];

const keep: Words = (value) => (typeof value === 'number' ? [`--keep=${value}s`] : []);

const image: Words = (value) => (value === '' ? [] : option('-r')(value));

const binds = each('--bind', (value) => {
  const { source, target, readonly, relabel, noLinks } = fields(value);
  const letter = relabel === 'private' ? 'Z' : 'z';
  const options = [
    readonly === true ? 'ro' : 'rw',
    ...(relabel === undefined ? [] : [letter]),
    ...(noLinks === true ? ['nolinks'] : []),
  ];
  return `${source}:${target}:${options.join(',')}`;
});

/** A field that is missing here does not compile. */
const RUN: Readonly<Record<keyof RunRequest, Words>> = {
  image,
  argv: nothing,
  env: each('--env', String),
  workdir: option('--workdir'),
  user: option('--user'),
  capAdd: each('--cap-add', String),
  // `--profile nested` brings its own.
  seccomp: (value) => (value === 'default' || value === 'nested' ? [] : option('--seccomp')(value)),
  nested: flag('--profile', 'nested'),
  label: (value) => {
    const { kind, label } = fields(value);
    return option('--label')(typeof label === 'string' ? `${kind}:${label}` : kind);
  },
  network: (value) =>
    value === 'host' ? ['--network', 'host', '--allow-host-network'] : named(value),
  egress: each('--egress', String),
  binds,
  allowHostWrite: flag('--allow-host-write'),
  tmpfs: each('--tmpfs', (value) => {
    const { target, bytes } = fields(value);
    return typeof bytes === 'number' ? `${target}:${bytes}` : String(target);
  }),
  hostname: option('--hostname'),
  limits,
  disk: option('--disk'),
  time,
  copyIn: each('--copy-in', (value) => `${fields(value).source}:${fields(value).target}`),
  artifacts: each('--artifact', String),
  secrets: each('--secret', (name) => `${name}=FILE`),
  allowMissing: each('--allow-missing', String),
  resultDirectory: option('--resultdir'),
  keepSeconds: keep,
  caller: nothing,
};

/** A field that is missing here does not compile. Some are kiln-mock's alone. */
const BUILD: Readonly<Record<keyof BuildRequest, Words>> = {
  image,
  imageLock: nothing,
  source: (value) => {
    const { kind, path, sources } = fields(value);
    // Those of a chain are beside its request.
    if (path === undefined) return [];
    return kind === 'spec'
      ? [...option('--spec')(path), ...option('--sources')(sources)]
      : [String(path)];
  },
  defines: each('--define', String),
  with: each('--with', String),
  without: each('--without', String),
  nocheck: flag('--nocheck'),
  target: option('--target'),
  rpmbuildOptions: (value) =>
    Array.isArray(value) && value.length > 0
      ? ['--rpmbuild-opts', value.map((word) => shellWord(String(word))).join(' ')]
      : [],
  shortCircuit: option('--short-circuit'),
  network: (value) => {
    const { use, phases } = fields(value);
    if (!Array.isArray(phases)) return [];
    const hosts = each('--egress', String)(fields(use).egress);
    return [`--enable-network=${phases.join(',')}`, ...hosts, ...named(use)];
  },
  additionalPackages: each('--additional-package', String),
  repositories: each('--addrepo', (value) => {
    const { source, gpgkey } = fields(value);
    const { path, urls } = fields(source);
    return [
      path ?? (Array.isArray(urls) ? urls[0] : ''),
      ...(Array.isArray(gpgkey) ? gpgkey : []),
    ].join(',gpgkey=');
  }),
  caches: each('--cache', (value) => `${fields(value).name}:${fields(value).bytes}`),
  binds: nothing,
  environment: nothing,
  limits,
  disk: option('--disk'),
  time,
  hostname: nothing,
  keepSeconds: keep,
  offline: flag('--offline'),
  update: flag('--update'),
  lock: option('--lock'),
  postinstall: flag('--postinstall'),
  surroundings: nothing,
  stopAfter: nothing,
  scratch: nothing,
  provenance: (value) => [
    ...option('--provenance-key')(fields(value).key),
    ...option('--builder-id')(fields(value).builder),
  ],
  signing: (value) => [
    ...option('--sign-key')(fields(value).key),
    ...option('--sign-passphrase-file')(fields(value).passphraseFile),
  ],
  omit: nothing,
  scan: nothing,
  shownAs: nothing,
  logSharers: nothing,
  resultDirectory: option('--resultdir'),
  caller: nothing,
};

/** A field that is missing here does not compile. Of parameters, results have the names only. */
const RECIPE: Readonly<Record<keyof RecipeRequest, Words>> = {
  path: (value) => [String(value)],
  folder: nothing,
  admit: nothing,
  image,
  parameters: each('--param', (name) => `${name}=VALUE`),
  allowHost: flag('--allow-host'),
  allowHostWrite: flag('--allow-host-write'),
  sources: option('--sources'),
  offline: flag('--offline'),
  binds,
  limits,
  disk: option('--disk'),
  time,
  // kiln.yaml's.
  usual: nothing,
  resultDirectory: option('--resultdir'),
  keepSeconds: keep,
  caller: nothing,
  host: nothing,
};

function fields(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}

/** `--network NAME,…` for a network of libvirt's. */
function named(value: unknown): readonly string[] {
  const { name, ...network } = fields(value);
  if (typeof name !== 'string') return [];
  const options = (['address', 'gateway', 'mac'] as const)
    .filter((key) => network[key] !== undefined)
    .map((key) => `,${key}=${network[key]}`);
  return ['--network', `${name}${options.join('')}`];
}

function option(name: string): Words {
  return (value) =>
    typeof value === 'string' || typeof value === 'number' ? [name, String(value)] : [];
}

function flag(...words: readonly string[]): Words {
  return (value) => (value === true ? words : []);
}

function milliseconds(name: string, value: unknown): readonly string[] {
  return typeof value === 'number' ? [name, `${value / 1000}s`] : [];
}

function each(name: string, text: (value: unknown) => string): Words {
  return (values) =>
    Array.isArray(values) ? values.flatMap((value: unknown) => [name, text(value)]) : [];
}
