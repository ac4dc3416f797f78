import { availableParallelism } from 'node:os';
import { InvalidArgumentError, Option } from 'commander';
import type { HeldPath } from '../../host/files/held.ts';
import {
  type BuildRequest,
  type CacheMount,
  macroDefinition,
  NETWORK_PHASES,
  type NetworkPhase,
} from '../../jobs/rpmbuild/request.ts';
import { VARIATIONS, type Variation } from '../../jobs/verify/verify.ts';
import { needed, type Source } from '../../options/kind.ts';
import { count, size as sizes } from '../../options/numbers.ts';
import {
  allowHost,
  allowHostWrite,
  bind,
  image,
  keep,
  LIMITS,
  type LimitValues,
  quiet,
  SANDBOX,
} from '../../options/sandbox.ts';
import { CI_CHOICES, type CiChoice } from '../../report/ci/provider.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { shellWords } from '../../shell-words.ts';
import type { KilnCommand } from '../options/command.ts';
import { RowOption, repeated } from '../options/shared-options.ts';

/** Options that are called as what they are of a request. */
type Same = 'nocheck' | 'target' | 'shortCircuit' | 'lock' | 'postinstall' | 'offline' | 'update';

export interface BuildOptions extends LimitValues, Pick<BuildRequest, Same> {
  readonly image?: string;
  readonly spec?: HeldPath;
  readonly sources?: HeldPath;
  readonly resultdir: string;
  readonly define: readonly string[];
  readonly with: readonly string[];
  readonly without: readonly string[];
  readonly rpmbuildOpts: readonly string[];
  readonly enableNetwork?: readonly NetworkPhase[];
  readonly network: string;
  readonly egress: readonly string[];
  readonly additionalPackage: readonly string[];
  readonly addrepo: readonly string[];
  readonly cache: readonly CacheMount[];
  /** Milliseconds. */
  readonly keep?: number;
  readonly resume?: string;
  readonly verify?: boolean;
  readonly vary: readonly Variation[];
  readonly provenanceKey?: HeldPath;
  readonly signKey?: HeldPath;
  readonly signPassphraseFile?: HeldPath;
  readonly builderId?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly ci: CiChoice;
  readonly samples: boolean;
}

/** The default size of a cache, bytes: ccache's own default. */
const CACHE_BYTES = 5 * 2 ** 30;

function parsePhases(text: string): NetworkPhase[] {
  const how = `there are the phases ${NETWORK_PHASES.join(', ')}.`;
  return text.split(',').map((name) => {
    const found = NETWORK_PHASES.find((phase) => phase === name);
    return needed(found, how);
  });
}

function parseCache(text: string): CacheMount {
  const [name = '', size, ...more] = text.split(':');
  if (name === '' || more.length > 0) throw new InvalidArgumentError('write it as NAME[:SIZE].');
  return { name, bytes: size === undefined ? CACHE_BYTES : sizes.read(size) };
}

function parseDefinition(text: string): string {
  return needed(macroDefinition(text), "write it as 'NAME VALUE'.");
}

function parseVariation(text: string): Variation {
  const found = VARIATIONS.find((name) => name === text);
  return needed(found, `it can be ${VARIATIONS.join(', ')}.`);
}

function parseWords(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), ...shellWords(text)];
}

export function addBuildOptions(command: KilnCommand, caller: Source): KilnCommand {
  const options = [
    new RowOption('image', image('build in'), caller),
    new Option('--spec <file>', 'build from this spec file instead of a source package'),
    new Option(
      '--sources <dir>',
      'take the files that the spec names as Source and Patch from this directory',
    ),
    new Option('--resultdir <dir>', 'write packages and logs to this directory').default('result'),
    repeated('-D, --define <name value>', 'define an rpm macro', parseDefinition),
    repeated('--with <condition>', 'enable a condition (%bcond) of the spec', String),
    repeated('--without <condition>', 'disable a condition (%bcond) of the spec', String),
    new Option('--nocheck', 'skip %check'),
    new Option('--target <arch>', 'build for this architecture (rpmbuild --target)'),
    new Option('--rpmbuild-opts <options>', 'pass more options to rpmbuild')
      .argParser(parseWords)
      .default([] as string[], 'none'),
    new Option('--short-circuit <stage>', 'start rpmbuild at this stage').choices([
      'build',
      'install',
      'binary',
    ]),
    new Option(
      '--enable-network [phases]',
      `allow the network during the build, or only in these phases: ${NETWORK_PHASES.join(', ')}`,
    )
      .argParser(parsePhases)
      .preset(NETWORK_PHASES.join(',')),
    new Option(
      '--network <network>',
      'choose the network for --enable-network: host, or a libvirt network as in `kiln run`',
    ).default('host'),
    new RowOption('egress', {
      ...SANDBOX.egress,
      help: 'let these phases reach only this host, through an HTTP proxy',
    }),
    repeated('--additional-package <package>', 'install this package, too', String),
    repeated('--addrepo <repository>', 'take packages from this folder or URL, too', String),
    repeated(
      '--cache <name[:size]>',
      'keep ~/.cache/NAME for later builds (size: 5G by default)',
      parseCache,
    ),
    ...Object.entries(LIMITS).map(([name, row]) => new RowOption(name, row)),
    new RowOption('keep', keep('keep the sandbox of a failed build for this time, 1h by default')),
    new Option(
      '--lock <file>',
      'build in exactly the image of an earlier build, named by its lock.json',
    ),
    new Option('--verify', 'build twice in different surroundings and compare the results'),
    repeated(
      '--vary <what>',
      'with --verify: also vary this between the two builds',
      parseVariation,
    ),
    new Option('--postinstall', 'install the built packages in a new sandbox'),
    new Option('--resume <id>', 'continue a build in its kept sandbox'),
    new Option('--provenance-key <file>', 'sign the provenance with this private key (PEM)'),
    new Option('--sign-key <file>', 'sign the packages with this OpenPGP secret key (armored)'),
    new Option(
      '--sign-passphrase-file <file>',
      'read the passphrase of that key from this file instead of KILN_SIGN_PASSPHRASE',
    ),
    new Option('--builder-id <uri>', 'name this builder in the provenance').default(
      caller.env.KILN_BUILDER_ID || undefined,
      'KILN_BUILDER_ID',
    ),
    new Option('--offline', 'use only what was downloaded before'),
    new Option('--update', 'build the image again if its repositories have changed'),
    new Option(
      '--ci <service>',
      'format output for a CI service: groups, annotations, junit.xml; see docs/ci.md',
    )
      .choices(CI_CHOICES)
      .default('auto'),
    new Option('--no-samples', 'do not record resource use over time in result.json'),
    new RowOption('quiet', quiet),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

export interface ChainOptions {
  readonly chain?: boolean;
  readonly jobs: number;
  readonly continue?: boolean;
  readonly recurse?: boolean;
  readonly farm?: boolean;
}

export const CHAIN_EXAMPLES = `
Several packages that require each other (see docs/chains.md):
  kiln build --chain -r debian-build --resultdir out a.src.rpm b.src.rpm c.src.rpm
  kiln build --chain -j 4 --continue -r debian-build --resultdir out *.src.rpm
  kiln build --chain --farm -r debian-build --resultdir out *.src.rpm   # on a pool: docs/farm.md
  With the same --resultdir a chain continues where it stopped: a package whose inputs have not changed
  is not built again.`;

/** Half of the processors, because a build uses several itself (make -j). */
const JOBS = Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));

export function addChainOptions(command: KilnCommand): KilnCommand {
  return command
    .option('--chain', 'build several source packages; each can use the results of the others')
    .addOption(
      new Option('-j, --jobs <number>', 'with --chain: run this many builds at a time')
        .argParser(count.read)
        .default(JOBS, 'half of the processors, at most 4'),
    )
    .option('-c, --continue', 'with --chain: continue after a failed build')
    .option(
      '--recurse',
      'with --chain: try failed builds again with newer results; packages may need each other',
    )
    .option('--farm', 'with --chain: build on a pool of machines (HTCondor)');
}

export interface RecipeOptions {
  readonly param: readonly (readonly [string, string])[];
  readonly allowHost?: boolean;
  readonly allowHostWrite?: boolean;
  readonly bind: readonly Bind[];
  readonly schema?: boolean;
}

export const RECIPE_EXAMPLES = `

Recipes:
  kiln build recipes/builds/hello.yaml --resultdir out
  kiln build zlib --sources ~/tarballs --offline    # one of recipes/builds; nothing is downloaded
  kiln build ./release.ts --param version=1.2
  kiln build --schema                               # the JSON Schema of YAML recipes
`;

export function addRecipeOptions(command: KilnCommand, caller: Source): KilnCommand {
  const options = [
    repeated(
      '--param <name=value>',
      'recipes: set a parameter of a TypeScript recipe',
      parseParameter,
    ),
    new RowOption('bind', bind('recipes: bind-mount a host path'), caller),
    new RowOption(
      'allowHost',
      allowHost('recipes: allow $host, binds and the network of the host; of any image: '),
    ),
    new RowOption('allowHostWrite', allowHostWrite('recipes: ')),
    new Option('--schema', 'print the JSON Schema of YAML recipes and exit'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

function parseParameter(text: string): [string, string] {
  const equals = text.indexOf('=');
  if (equals < 1) throw new InvalidArgumentError('write it as NAME=VALUE.');
  return [text.slice(0, equals), text.slice(equals + 1)];
}
