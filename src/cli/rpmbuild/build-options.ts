import { type Command, InvalidArgumentError, Option } from 'commander';
import { macroDefinition } from '../../jobs/rpmbuild/macro-definition.ts';
import {
  type CacheMount,
  NETWORK_PHASES,
  type NetworkPhase,
  type ShortCircuit,
} from '../../jobs/rpmbuild/request.ts';
import { VARIATIONS, type Variation } from '../../jobs/verify/verify.ts';
import { CI_CHOICES, type CiChoice } from '../../report/ci/provider.ts';
import { shellWords } from '../../shell-words.ts';
import type { Caller } from '../caller/caller.ts';
import { type LimitValues, limitOptions } from '../options/limit-options.ts';
import { parseEgress, parseSize, parseTime } from '../options/values.ts';

/** The options of `build`, as commander parses them. */
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
  readonly samples: boolean;
}

/** The default size of a cache, bytes: ccache's own default. */
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

/** `--rpmbuild-opts` is one string, as in mock. */
function parseWords(text: string, before: string[] | undefined): string[] {
  return [...(before ?? []), ...shellWords(text)];
}

/** Adds the options of a build, with mock's names where mock has them. */
export function addBuildOptions(command: Command, caller: Pick<Caller, 'env'>): Command {
  const options = [
    new Option(
      '-r, --image <image>',
      'build in this image: the name or path of a recipe, a lock, or an image id; by default KILN_IMAGE',
    ).default(caller.env.KILN_IMAGE || undefined, 'KILN_IMAGE'),
    new Option('--spec <file>', 'build from this spec file instead of a source package'),
    new Option(
      '--sources <dir>',
      'take the files that the spec names as Source and Patch from this directory',
    ),
    new Option('--resultdir <dir>', 'write packages and logs to this directory').default('result'),
    new Option('-D, --define <name value>', 'define an rpm macro')
      .argParser(parseDefinition)
      .default([] as string[], 'none'),
    repeated('--with <condition>', 'enable a condition (%bcond) of the spec'),
    repeated('--without <condition>', 'disable a condition (%bcond) of the spec'),
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
    new Option(
      '--egress <host[:port]>',
      'let these phases reach only this host, through an HTTP proxy',
    )
      .argParser((text: string, before: string[]) => [...before, parseEgress(text)])
      .default([] as string[], 'none'),
    repeated('--additional-package <package>', 'install this package, too'),
    repeated('--addrepo <repository>', 'take packages from this folder or URL, too'),
    new Option('--cache <name[:size]>', 'keep ~/.cache/NAME for later builds (size: 5G by default)')
      .argParser(parseCaches)
      .default([] as CacheMount[], 'none'),
    ...limitOptions(),
    new Option('--keep [time]', 'keep the sandbox of a failed build for this time, 1h by default')
      .argParser(parseTime)
      .preset('1h'),
    new Option(
      '--lock <file>',
      'build in exactly the image of an earlier build, named by its lock.json',
    ),
    new Option('--verify', 'build twice in different surroundings and compare the results'),
    new Option('--vary <what>', 'with --verify: also vary this between the two builds')
      .argParser((text: string, before: Variation[]) => [...before, parseVariation(text)])
      .default([] as Variation[], 'none'),
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
    new Option('--ci <service>', 'format output for a CI service: groups, annotations, junit.xml')
      .choices(CI_CHOICES)
      .default('auto'),
    new Option('--no-samples', 'do not record resource use over time in result.json'),
    new Option('-q, --quiet', 'do not show the output of the build'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}
