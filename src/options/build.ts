/** The options of `kiln build`: a row for each, in the order of help. */
import { availableParallelism } from 'node:os';
import { InvalidArgumentError } from 'commander';
import type { HeldPath } from '../host/files/held.ts';
import { shellWord, shellWords } from '../shell-words.ts';
import { fieldsOf, flag, type Kind, needed, negation, text } from './kind.ts';
import { SIZES, TIMES } from './measures.ts';
import { count, size as sizes } from './numbers.ts';
import { hostPath, opened } from './places.ts';
import { row, type ValuesOf } from './row.ts';
import { areListed, every, NETWORK, path, root, setting } from './rules.ts';
import {
  allowHost,
  allowHostWrite,
  bind,
  ci,
  DETACH,
  GROUND,
  image,
  keep,
  LIMITS,
  quiet,
  SANDBOX,
} from './sandbox.ts';
import { choice, network, type Pair } from './texts.ts';

export const NETWORK_PHASES = ['buildrequires', 'build', 'postinstall'] as const;
export type NetworkPhase = (typeof NETWORK_PHASES)[number];

const VARIATIONS = ['path'] as const;
export type Variation = (typeof VARIATIONS)[number];

export interface CacheMount {
  readonly name: string;
  /** Size in bytes; the files used longest ago go when there is more. */
  readonly bytes: number;
}

/** The default size of a cache, bytes: ccache's own default. */
const CACHE_BYTES = 5 * 2 ** 30;

const cache: Kind<CacheMount> = {
  term: 'name[:size]',
  read: (word): CacheMount => {
    const [name = '', size, ...more] = word.split(':');
    if (name === '' || more.length > 0) throw new InvalidArgumentError('write it as NAME[:SIZE].');
    return { name, bytes: size === undefined ? CACHE_BYTES : sizes.read(size) };
  },
  word: (asked) => `${fieldsOf(asked).name}:${fieldsOf(asked).bytes}`,
};

function bytesOf(value: unknown): number {
  if (!Array.isArray(value)) return Number.POSITIVE_INFINITY;
  return value.reduce((sum, { bytes }: { readonly bytes: number }) => sum + bytes, 0);
}

function phasesOf(names: readonly string[]): NetworkPhase[] {
  const how = `there are the phases ${NETWORK_PHASES.join(', ')}.`;
  return names.map((name) =>
    needed(
      NETWORK_PHASES.find((phase) => phase === name),
      how,
    ),
  );
}

const phases: Kind<readonly NetworkPhase[]> = {
  term: 'phases',
  read: (word) => phasesOf(word.split(',')),
  fromJson: phasesOf,
  word: (asked) => (Array.isArray(asked) ? asked.join(',') : undefined),
};

export function macroDefinition(text: string): string | undefined {
  const match = /^\s*%?([A-Za-z_]\w*(?:\(.*?\))?)\s+([\s\S]*)$/.exec(text);
  return match === null ? undefined : `${match[1]} ${match[2]}`;
}

const definition: Kind<string> = {
  term: 'name value',
  read: (word) => needed(macroDefinition(word), "write it as 'NAME VALUE'."),
};

const variation: Kind<Variation> = {
  term: 'what',
  read: (word) =>
    needed(
      VARIATIONS.find((name) => name === word),
      `it can be ${VARIATIONS.join(', ')}.`,
    ),
};

const repository: Kind<string> = {
  ...text('repository'),
  opens: path('repository'),
  fromJson: (place: string, field) => (/^[a-z]+:\/\//.test(place) ? place : hostPath(field, place)),
  word: (asked) => {
    const { source, gpgkey } = fieldsOf(asked);
    const { path, urls } = fieldsOf(source);
    const keys: unknown[] = Array.isArray(gpgkey) ? gpgkey : [];
    return [path ?? (Array.isArray(urls) ? urls[0] : ''), ...keys].join(',gpgkey=');
  },
};

const parameter: Kind<Pair> = {
  term: 'name=value',
  pairs: true,
  read: (word) => {
    const equals = word.indexOf('=');
    if (equals < 1) throw new InvalidArgumentError('write it as NAME=VALUE.');
    return [word.slice(0, equals), word.slice(equals + 1)];
  },
  fromJson: (pair: Pair) => pair,
  // A result has the name only.
  word: (name) => `${name}=VALUE`,
};

const rpmbuildWords: Kind<string> = {
  term: 'options',
  read: shellWords,
  lists: true,
  word: (asked) => shellWord(String(asked)),
};

const key = opened<HeldPath>('file', path('content'));

const SERVERS = root('kilnd itself would ask whatever server it names');

export const BUILD = {
  image: image('build in'),
  spec: row(opened<HeldPath>('file', path('text')), 'open', {
    help: 'build from this spec file instead of a source package',
  }),
  sourceDirectory: row(opened<HeldPath>('dir', path('sources')), 'open', {
    help: 'take the files that the spec names as Source and Patch from this folder',
    flag: 'sources',
  }),
  resultDirectory: row(opened<string>('dir', path('lone results')), 'open', {
    help: 'write packages and logs to this folder',
    usual: 'result',
    flag: 'resultdir',
  }),
  defines: row(definition, 'open', {
    help: 'define an rpm macro',
    short: 'D',
    many: true,
    flag: 'define',
  }),
  with: row(text('condition'), 'open', {
    help: 'enable a condition (%bcond) of the spec',
    many: true,
  }),
  without: row(text('condition'), 'open', {
    help: 'disable a condition (%bcond) of the spec',
    many: true,
  }),
  nocheck: row(flag, 'open', { help: 'skip %check' }),
  target: row(text('arch'), 'open', { help: 'build for this architecture (rpmbuild --target)' }),
  rpmbuildOptions: row(rpmbuildWords, 'open', {
    help: 'pass more options to rpmbuild',
    many: true,
    flag: 'rpmbuildOpts',
  }),
  shortCircuit: row(choice('stage', ['build', 'install', 'binary']), 'open', {
    help: 'start rpmbuild at this stage',
  }),
  networkPhases: row(
    phases,
    {
      kind: 'setting',
      setting: 'users.egress, and --egress HOST for what the build may reach',
      // --egress has a rule of its own; without it, --network decides.
      allows: (_, policy, { egress, network }) =>
        (Array.isArray(egress) && egress.length > 0) || areListed(network, policy),
    },
    {
      help: `allow the network during the build, or only in these phases: ${NETWORK_PHASES.join(', ')}`,
      preset: NETWORK_PHASES.join(','),
      flag: 'enableNetwork',
    },
  ),
  network: row(network, NETWORK, {
    help: 'choose the network for --enable-network: host, or a libvirt network as in `kiln run`',
    usual: 'host',
  }),
  egress: {
    ...SANDBOX.egress,
    help: 'let these phases reach only this host, through an HTTP proxy',
  },
  packages: row(
    text('package'),
    {
      kind: 'setting',
      instead: 'users name packages, not files',
      allows: (value) => every<string>(value, (name) => /^[^/-][^/]*$/.test(name)),
    },
    {
      help: 'install this package, too',
      stays: (value) =>
        every<string>(value, (name) => !name.includes('/'))
          ? undefined
          : 'packages in files do not travel: name them, or build a chain',
      many: true,
      flag: 'additionalPackage',
    },
  ),
  repositories: row(repository, SERVERS, {
    help: 'take packages from this folder or URL, too',
    stays: (value) =>
      every<string>(value, (place) => /^https?:/.test(place))
        ? undefined
        : 'a repository in a folder does not travel: name its URL',
    many: true,
    flag: 'addrepo',
  }),
  caches: row(
    cache,
    setting(
      'limits.disk, and no --keep',
      (value, { limits }, { keep }) => {
        // What is done in a kept sandbox has no watch on what it writes to a cache.
        return keep === undefined && bytesOf(value) <= limits.disk;
      },
      SIZES,
    ),
    {
      help: 'keep ~/.cache/NAME for later builds (size: 5G by default)',
      many: true,
      flag: 'cache',
    },
  ),
  ...GROUND,
  ...LIMITS,
  keep: {
    ...keep('keep the sandbox of a failed build for this time, 1h by default'),
    users: setting(
      'limits.keep, and no --chain',
      (value, { limits }, { chain }) => {
        // Every package of a chain would keep a sandbox.
        return chain !== true && Number(value) <= limits.keep;
      },
      TIMES,
    ),
  },
  lock: row(opened<HeldPath>('file', path('text')), SERVERS, {
    help: 'build in exactly the image of an earlier build, named by its lock.json',
  }),
  verify: row(flag, 'open', {
    help: 'build twice in different surroundings and compare the results',
  }),
  vary: row(variation, 'open', {
    help: 'with --verify: also vary this between the two builds',
    many: true,
  }),
  postinstall: row(flag, 'open', { help: 'install the built packages in a new sandbox' }),
  // Ids of others' sandboxes mean nothing to their own.
  resume: row(text('id'), 'open', { help: 'continue a build in its kept sandbox' }),
  provenanceKey: row(key, 'open', {
    help: 'sign the provenance with this private key (PEM)',
  }),
  signKey: row(key, 'open', {
    help: 'sign the packages with this OpenPGP secret key (armored)',
  }),
  signPassphraseFile: row(key, 'open', {
    help: 'read the passphrase of that key from this file instead of KILN_SIGN_PASSPHRASE',
  }),
  builderId: row(text('uri'), 'open', {
    help: 'name this builder in the provenance',
    variable: 'KILN_BUILDER_ID',
    usually: 'KILN_BUILDER_ID',
  }),
  offline: row(flag, 'open', { help: 'use only what was downloaded before' }),
  update: row(flag, 'open', { help: 'build the image again if its repositories have changed' }),
  ci: {
    ...ci('format output for a CI service: groups, annotations, junit.xml; see docs/ci.md'),
    usual: 'auto',
  },
  samples: row(negation, 'open', {
    help: 'do not record resource use over time in result.json',
    usual: true,
  }),
  quiet,
};

export type BuildOptions = ValuesOf<typeof BUILD & typeof OUTPUT>;

const { spec, sourceDirectory, repositories, resultDirectory, ...others } = BUILD;
const { verify, vary, resume, ci: _ci, samples, quiet: _, ...asked } = others;

/** What a build asks for just as it is given: see BuildRequest. */
export const ASKED_OF_BUILDS = asked;

const { shortCircuit, nocheck, keep: kept, timeout, stallTimeout, ...rest } = asked;
const { signKey, signPassphraseFile, provenanceKey, ...more } = rest;

/** What a build that goes on may be told anew. */
export const RESUMED = {
  ...{ shortCircuit, nocheck, keep: kept, timeout, stallTimeout },
  ...{ signKey, signPassphraseFile, provenanceKey },
};

const {
  image: _image,
  network: _network,
  lock,
  networkPhases,
  egress,
  caches,
  ...travelling
} = more;

/** What goes to the machines of a pool: all else has files, keys or networks of this one. */
export const ASKED_OF_STEPS = { ...travelling, shortCircuit, nocheck, timeout, stallTimeout };

export const RECIPE = {
  parameters: row(parameter, 'open', {
    help: 'recipes: set a parameter of a TypeScript recipe',
    many: true,
    flag: 'param',
  }),
  binds: bind('recipes: bind-mount a host path'),
  allowHost: allowHost('recipes: allow $host, binds and the network of the host; of any image: '),
  allowHostWrite: allowHostWrite('recipes: '),
  protection: { ...SANDBOX.protection, help: `recipes: ${SANDBOX.protection.help}` },
  schema: row(flag, 'open', { help: 'print the JSON Schema of YAML recipes and exit' }),
};

export type RecipeOptions = ValuesOf<typeof RECIPE>;

/** What the build of a recipe asks for: see RecipeRequest. */
export const ASKED_OF_RECIPES = {
  image: BUILD.image,
  parameters: RECIPE.parameters,
  allowHost: RECIPE.allowHost,
  allowHostWrite: RECIPE.allowHostWrite,
  sourceDirectory: BUILD.sourceDirectory,
  offline: BUILD.offline,
  binds: RECIPE.binds,
  protection: RECIPE.protection,
  ...GROUND,
  ...LIMITS,
  resultDirectory: BUILD.resultDirectory,
  keep: BUILD.keep,
};

/** Half of the processors, because a build uses several itself (make -j). */
const JOBS = Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));

export const CHAIN = {
  chain: row(flag, 'open', {
    help: 'build several source packages; each can use the results of the others',
  }),
  jobs: row(
    count,
    // Each counts as a sandbox, and starts when there is room for it.
    setting('limits.sandboxes', (value, { limits }) => Number(value) <= limits.sandboxes),
    {
      help: 'with --chain: run this many builds at a time',
      short: 'j',
      usual: JOBS,
      usually: 'half of the processors, at most 4',
    },
  ),
  continue: row(flag, 'open', {
    help: 'with --chain: continue after a failed build',
    short: 'c',
  }),
  recurse: row(flag, 'open', {
    help: 'with --chain: try failed builds again with newer results; packages may need each other',
  }),
  farm: row(flag, root('your own kiln talks to a pool, not the daemon', false), {
    help: 'with --chain: build on a pool of machines (HTCondor)',
  }),
};

export type ChainOptions = ValuesOf<typeof CHAIN>;

const OUTPUT = {
  json: row(flag, 'open', { help: 'print the result as JSON, as the last line of stderr' }),
};

/** All of them. */
export const BUILDS = { ...BUILD, ...RECIPE, ...CHAIN, ...DETACH, ...OUTPUT };
