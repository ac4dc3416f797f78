import { type Command, InvalidArgumentError, Option } from 'commander';
import { macroDefinition } from '../build/macro-definition.ts';
import {
  type CacheMount,
  NETWORK_PHASES,
  type NetworkPhase,
  type ShortCircuit,
} from '../build/request.ts';
import { VARIATIONS, type Variation } from '../build/verify.ts';
import { CI_CHOICES, type CiChoice } from '../report/ci/provider.ts';
import { shellWords } from '../shell-words.ts';
import type { Caller } from './caller.ts';
import { type LimitValues, limitOptions } from './limit-options.ts';
import { parseEgress, parseSize, parseTime } from './values.ts';

/** The options of `build`, as commander gives them. */
export interface BuildOptions extends LimitValues {
  readonly image?: string;
  readonly spec?: string;
  readonly sources?: string;
  readonly resultdir: string;
  readonly define: readonly string[];
  readonly with: readonly string[];
  readonly without: readonly string[];
  readonly nocheck?: boolean;
  readonly target?: string;
  readonly rpmbuildOpts: readonly string[];
  readonly shortCircuit?: ShortCircuit;
  readonly enableNetwork?: readonly NetworkPhase[];
  readonly network: string;
  readonly egress: readonly string[];
  readonly additionalPackage: readonly string[];
  readonly addrepo: readonly string[];
  readonly cache: readonly CacheMount[];
  /** Milliseconds. */
  readonly keep?: number;
  readonly lock?: string;
  readonly resume?: string;
  readonly postinstall?: boolean;
  readonly verify?: boolean;
  readonly vary: readonly Variation[];
  readonly provenanceKey?: string;
  readonly signKey?: string;
  readonly signPassphraseFile?: string;
  readonly builderId?: string;
  readonly offline?: boolean;
  readonly update?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly ci: CiChoice;
}

/** Bytes of a cache when nobody says: ccache's own default. */
const CACHE_BYTES = 5 * 2 ** 30;

function repeated(flags: string, description: string) {
  return new Option(flags, description)
    .argParser((text: string, before: string[] | undefined) => [...(before ?? []), text])
    .default([] as string[], 'none');
}

function parsePhases(text: string): NetworkPhase[] {
  return text.split(',').map((name) => {
    const found = NETWORK_PHASES.find((phase) => phase === name);
    if (found !== undefined) return found;
    throw new InvalidArgumentError(`there are the phases ${NETWORK_PHASES.join(', ')}.`);
  });
}

function parseCaches(text: string, before: CacheMount[] | undefined): CacheMount[] {
  const [name = '', size, ...more] = text.split(':');
  if (name === '' || more.length > 0) throw new InvalidArgumentError('write it as NAME[:SIZE].');
  return [...(before ?? []), { name, bytes: size === undefined ? CACHE_BYTES : parseSize(size) }];
}

function parseDefinition(text: string, before: string[] | undefined): string[] {
  const definition = macroDefinition(text);
  if (definition === undefined) throw new InvalidArgumentError("write it as 'NAME VALUE'.");
  return [...(before ?? []), definition];
}

function parseVariation(text: string): Variation {
  const found = VARIATIONS.find((name) => name === text);
  if (found !== undefined) return found;
  throw new InvalidArgumentError(`it can be ${VARIATIONS.join(', ')}.`);
}

/** `--rpmbuild-opts` is one string, as mock has it. */
function parseWords(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), ...shellWords(text)];
}

/** Adds the options of a build: mock's names where mock has them. */
export function addBuildOptions(command: Command, caller: Pick<Caller, 'env'>): Command {
  const options = [
    new Option('-r, --image <image>', 'a recipe’s name or path, a lock, or an image id').default(
      caller.env.KILN_IMAGE || undefined,
      'KILN_IMAGE',
    ),
    new Option('--spec <file>', 'build from this spec file'),
    new Option('--sources <dir>', 'the files that the spec names as Source and Patch'),
    new Option('--resultdir <dir>', 'where packages and logs go').default('result'),
    new Option('-D, --define <name value>', 'define a macro')
      .argParser(parseDefinition)
      .default([] as string[], 'none'),
    repeated('--with <condition>', 'turn a condition of the spec on'),
    repeated('--without <condition>', 'turn a condition of the spec off'),
    new Option('--nocheck', 'leave %check out'),
    new Option('--target <arch>', 'rpmbuild’s --target'),
    new Option('--rpmbuild-opts <options>', 'more options for rpmbuild')
      .argParser(parseWords)
      .default([] as string[], 'none'),
    new Option('--short-circuit <stage>', 'start rpmbuild there').choices([
      'build',
      'install',
      'binary',
    ]),
    new Option(
      '--enable-network [phases]',
      `give the build a network, or only these of its phases: ${NETWORK_PHASES.join(', ')}`,
    )
      .argParser(parsePhases)
      .preset(NETWORK_PHASES.join(',')),
    new Option('--network <network>', 'which: host, or a libvirt network as of kiln run').default(
      'host',
    ),
    new Option('--egress <host[:port]>', 'those phases reach only this host, by an HTTP proxy')
      .argParser((text: string, before: string[]) => [...before, parseEgress(text)])
      .default([] as string[], 'none'),
    repeated('--additional-package <package>', 'install this, too'),
    repeated('--addrepo <repository>', 'a folder or URL to take packages from, too'),
    new Option('--cache <name[:size]>', 'a folder below ~/.cache that later builds find again (5G)')
      .argParser(parseCaches)
      .default([] as CacheMount[], 'none'),
    ...limitOptions(),
    new Option('--keep [time]', 'if it fails, keep its sandbox an hour or this time')
      .argParser(parseTime)
      .preset('1h'),
    new Option('--lock <file>', 'build in the very image of an earlier build, by its lock.json'),
    new Option('--verify', 'build twice, in other surroundings, and compare'),
    new Option('--vary <what>', 'with --verify: let this differ, too')
      .argParser((text: string, before: Variation[]) => [...before, parseVariation(text)])
      .default([] as Variation[], 'none'),
    new Option('--postinstall', 'install what was built in a fresh sandbox'),
    new Option('--resume <id>', 'go on with a build in the sandbox that it was kept in'),
    new Option('--provenance-key <file>', 'sign the provenance with this private key (PEM)'),
    new Option('--sign-key <file>', 'sign the packages with this OpenPGP secret key (armored)'),
    new Option(
      '--sign-passphrase-file <file>',
      'its passphrase, if not in the environment as KILN_SIGN_PASSPHRASE',
    ),
    new Option('--builder-id <uri>', 'who runs this builder, for the provenance').default(
      caller.env.KILN_BUILDER_ID || undefined,
      'KILN_BUILDER_ID',
    ),
    new Option('--offline', 'download nothing'),
    new Option('--update', 'make the image anew if its repositories have news'),
    new Option('--ci <service>', 'tell a CI service what happens: groups, annotations, junit.xml')
      .choices(CI_CHOICES)
      .default('auto'),
    new Option('-q, --quiet', 'do not show the build’s output'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}
