import { resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { addedRepository } from '../build/add-repository.ts';
import {
  type BuildRequest,
  type BuildSource,
  type CacheMount,
  NETWORK_PHASES,
  type NetworkPhase,
  type ShortCircuit,
} from '../build/request.ts';
import { hostArchitecture } from '../image/architecture.ts';
import { callerIds } from '../run/request.ts';
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
  readonly enableNetwork?: true | readonly NetworkPhase[];
  readonly network: string;
  readonly egress: readonly string[];
  readonly additionalPackage: readonly string[];
  readonly addrepo: readonly string[];
  readonly cache: readonly CacheMount[];
  readonly keep?: number | true;
  readonly lock?: string;
  readonly resume?: string;
  readonly postinstall?: boolean;
  readonly verify?: boolean;
  readonly provenanceKey?: string;
  readonly signKey?: string;
  readonly signPassphraseFile?: string;
  readonly builderId?: string;
  readonly offline?: boolean;
  readonly update?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Bytes of a cache when nobody says: ccache's own default. */
const CACHE_BYTES = 5 * 2 ** 30;

/** How long a kept box lives when nobody says, seconds. */
const KEEP_SECONDS = 3600;

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

/** `--rpmbuild-opts` is one string, as mock has it: split at spaces, quotes hold together. */
function parseWords(text: string, before: string[] | undefined): string[] {
  const words = text.match(/(?:[^\s"']+|"[^"]*"|'[^']*')+/g) ?? [];
  return [...(before ?? []), ...words.map((word) => word.replace(/["']/g, ''))];
}

/** Adds the options of a build: mock's names where mock has them. */
export function addBuildOptions(command: Command): Command {
  const options = [
    new Option('-r, --image <image>', 'a recipe’s name or path, a lock, or an image id').env(
      'KILN_IMAGE',
    ),
    new Option('--spec <file>', 'build from this spec file'),
    new Option('--sources <dir>', 'the files that the spec names as Source and Patch'),
    new Option('--resultdir <dir>', 'where packages and logs go').default('result'),
    repeated('-D, --define <name value>', 'define a macro'),
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
    ).argParser(parsePhases),
    new Option('--network <network>', 'which: host, or a libvirt network’s name').default('host'),
    new Option('--egress <host[:port]>', 'those phases reach only this host, by an HTTP proxy')
      .argParser((text: string, before: string[]) => [...before, parseEgress(text)])
      .default([] as string[], 'none'),
    repeated('--additional-package <package>', 'install this, too'),
    repeated('--addrepo <repository>', 'a folder or URL to take packages from, too'),
    new Option('--cache <name[:size]>', 'a folder below ~/.cache that later builds find again (5G)')
      .argParser(parseCaches)
      .default([] as CacheMount[], 'none'),
    ...limitOptions(),
    new Option('--keep [ttl]', 'if it fails, keep its sandbox an hour or this time').argParser(
      parseTime,
    ),
    new Option('--lock <file>', 'build in the very image of an earlier build, by its lock.json'),
    new Option('--verify', 'build twice, in other surroundings, and compare'),
    new Option('--postinstall', 'install what was built in a fresh sandbox'),
    new Option('--resume <id>', 'go on with a build in the sandbox that it was kept in'),
    new Option('--provenance-key <file>', 'sign the provenance with this private key (PEM)'),
    new Option('--sign-key <file>', 'sign the packages with this OpenPGP secret key (armored)'),
    new Option(
      '--sign-passphrase-file <file>',
      'its passphrase, if not in the environment as KILN_SIGN_PASSPHRASE',
    ),
    new Option('--builder-id <uri>', 'who runs this builder, for the provenance').env(
      'KILN_BUILDER_ID',
    ),
    new Option('--offline', 'download nothing'),
    new Option('--update', 'make the image anew if its repositories have news'),
    new Option('-q, --quiet', 'do not show the build’s output'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/** What a command line changes of the request of a build that is resumed. */
export function resumedRequest(options: BuildOptions, command: Command): Partial<BuildRequest> {
  const { shortCircuit, nocheck, timeout, stallTimeout } = options;
  const isGiven = command.getOptionValueSource('resultdir') === 'cli';
  return {
    ...given('resultDirectory', isGiven ? resolve(options.resultdir) : undefined),
    ...given('shortCircuit', shortCircuit),
    ...given('nocheck', nocheck),
    ...given('keepSeconds', keepSeconds(options)),
    ...given('signing', signing(options, command)),
    ...(timeout === undefined && stallTimeout === undefined
      ? {}
      : { time: { ...given('timeout', timeout), ...given('stallTimeout', stallTimeout) } }),
  };
}

function signing(options: BuildOptions, command: Command): BuildRequest['signing'] {
  const { signKey, signPassphraseFile } = options;
  if (signKey !== undefined) {
    return {
      key: resolve(signKey),
      ...given('passphraseFile', signPassphraseFile && resolve(signPassphraseFile)),
    };
  }
  if (signPassphraseFile === undefined) return undefined;
  return command.error('kiln: --sign-passphrase-file is for the key of --sign-key: name it');
}

function keepSeconds({ keep }: BuildOptions): number | undefined {
  return keep === true ? KEEP_SECONDS : keep && keep / 1000;
}

/** As reproducible-builds.org specifies it: whole seconds since 1970. */
function sourceDateEpoch({ SOURCE_DATE_EPOCH }: NodeJS.ProcessEnv): number | undefined {
  return /^\d{1,12}$/.test(SOURCE_DATE_EPOCH ?? '') ? Number(SOURCE_DATE_EPOCH) : undefined;
}

function networkUse({
  network,
  egress,
}: BuildOptions): NonNullable<BuildRequest['network']>['use'] {
  if (egress.length > 0) return { egress };
  return network === 'host' ? network : { name: network };
}

/** The request that a command line makes. */
export function buildRequest(
  srpm: string | undefined,
  options: BuildOptions,
  command: Command,
): BuildRequest {
  const { image } = options;
  if (image === undefined && options.lock === undefined) {
    return command.error('kiln: say which image to build in: -r IMAGE, or KILN_IMAGE');
  }
  const phases = options.enableNetwork === true ? NETWORK_PHASES : options.enableNetwork;
  if (options.egress.length > 0 && phases === undefined) {
    return command.error('kiln: --egress is for the phases of --enable-network: name them');
  }
  return {
    image: image ?? '',
    ...given('lock', options.lock && resolve(options.lock)),
    source: source(srpm, options, command),
    resultDirectory: resolve(options.resultdir),
    caller: callerIds(),
    defines: options.define,
    with: options.with,
    without: options.without,
    nocheck: options.nocheck === true,
    ...given('target', options.target),
    rpmbuildOptions: options.rpmbuildOpts,
    ...given('shortCircuit', options.shortCircuit),
    ...given('network', phases && { use: networkUse(options), phases }),
    additionalPackages: options.additionalPackage,
    repositories: options.addrepo.map((text, index) =>
      addedRepository(text, index, hostArchitecture()),
    ),
    caches: options.cache,
    limits: {
      ...given('memory', options.memory),
      ...given('cpus', options.cpus),
      ...given('pids', options.pids),
      ...given('ioRead', options.ioRead),
      ...given('ioWrite', options.ioWrite),
    },
    ...given('disk', options.disk),
    time: { ...given('timeout', options.timeout), ...given('stallTimeout', options.stallTimeout) },
    ...given('keepSeconds', keepSeconds(options)),
    postinstall: options.postinstall === true,
    provenance: {
      ...given('key', options.provenanceKey && resolve(options.provenanceKey)),
      ...given('builder', options.builderId),
      ...given('sourceDateEpoch', sourceDateEpoch(process.env)),
    },
    ...given('signing', signing(options, command)),
    offline: options.offline === true,
    update: options.update === true,
  };
}

function source(srpm: string | undefined, options: BuildOptions, command: Command): BuildSource {
  const { spec, sources } = options;
  if (srpm?.endsWith('.spec') && spec === undefined) {
    return source(undefined, { ...options, spec: srpm }, command);
  }
  if (srpm !== undefined && spec === undefined) return { kind: 'srpm', path: resolve(srpm) };
  if (spec === undefined || srpm !== undefined) {
    return command.error('kiln: give a source package, or a spec with --spec');
  }
  return { kind: 'spec', path: resolve(spec), ...given('sources', sources && resolve(sources)) };
}

function given<Name extends string, Value>(
  name: Name,
  value: Value | undefined | '',
): { [Key in Name]?: Value } {
  return value === undefined || value === '' ? {} : ({ [name]: value } as { [Key in Name]: Value });
}
