import type { Option } from 'commander';
import { defined } from '../../defined.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { hostArchitecture } from '../../image/key.ts';
import {
  addedRepository,
  type BuildRequest,
  type BuildSource,
} from '../../jobs/rpmbuild/request.ts';
import {
  ASKED_OF_BUILDS,
  ASKED_OF_RECIPES,
  type BuildOptions,
  CHAIN,
  type ChainOptions,
  RESUMED,
  type RecipeOptions,
} from '../../options/build.ts';
import { valuesIn } from '../../options/row.ts';
import { DETACH } from '../../options/sandbox.ts';
import type { Caller } from '../caller/caller.ts';
import { type KilnCommand, refuseOptions } from '../options/command.ts';

export function resumedRequest(
  srpm: string | undefined,
  options: BuildOptions,
  command: KilnCommand,
): Partial<BuildRequest> {
  if (srpm !== undefined) {
    return command.error('kiln: --resume goes on with the package in its sandbox: name no other');
  }
  checkSigning(options, command);
  return valuesIn(RESUMED, options);
}

function checkSigning({ signKey, signPassphraseFile }: BuildOptions, command: KilnCommand): void {
  if (signPassphraseFile === undefined || signKey !== undefined) return;
  command.error('kiln: --sign-passphrase-file is for the key of --sign-key: name it');
}

/** As reproducible-builds.org specifies it: whole seconds since 1970. */
function sourceDateEpoch({ SOURCE_DATE_EPOCH }: NodeJS.ProcessEnv): number | undefined {
  return /^\d{1,12}$/.test(SOURCE_DATE_EPOCH ?? '') ? Number(SOURCE_DATE_EPOCH) : undefined;
}

/** Without the folder for results, which is opened once nothing is wrong with all else. */
export function buildRequest(
  srpm: HeldPath | undefined,
  options: BuildOptions,
  command: KilnCommand,
  caller: Pick<Caller, 'env' | 'cwd' | 'ids'>,
): Omit<BuildRequest, 'resultDirectory'> {
  const { image } = options;
  if (image === undefined && options.lock === undefined) {
    return command.error(
      'kiln: say which image to build in: -r IMAGE, such as -r debian-build, in KILN_IMAGE or in kiln.yaml',
    );
  }
  if (options.vary.length > 0 && options.verify !== true) {
    return command.error('kiln: --vary is for --verify: say what to compare');
  }
  const { networkPhases: phases } = options;
  if (options.egress.length > 0 && phases === undefined) {
    return command.error('kiln: --egress is for the phases of --enable-network: name them');
  }
  if (options.network === 'private' || options.network === 'none') {
    const message = `kiln: ${options.network} is the network of a build without --enable-network`;
    return command.error(message);
  }
  if (command.isGiven('network')) {
    if (phases === undefined) {
      return command.error('kiln: --network is for the phases of --enable-network: name them');
    }
    if (options.egress.length > 0) {
      return command.error('kiln: --egress has a network of its own: leave --network out');
    }
  }
  checkSigning(options, command);
  return {
    ...valuesIn(ASKED_OF_BUILDS, options),
    image: image ?? '',
    source: source(srpm, options, command),
    caller: caller.ids,
    repositories: options.repositories.map((text, index) =>
      addedRepository(text, index, hostArchitecture(), caller.cwd()),
    ),
    ...defined({ sourceDateEpoch: sourceDateEpoch(caller.env) }),
  };
}

function source(
  srpm: HeldPath | undefined,
  options: BuildOptions,
  command: KilnCommand,
): BuildSource {
  const { spec, sourceDirectory: sources } = options;
  if (srpm?.endsWith('.spec') && spec === undefined) {
    return source(undefined, { ...options, spec: srpm }, command);
  }
  if (srpm !== undefined && spec === undefined) return { kind: 'srpm', path: srpm };
  if (spec === undefined || srpm !== undefined) {
    return command.error('kiln: give a source package, or a spec with --spec');
  }
  return { kind: 'spec', path: spec, ...defined({ sources }) };
}

export type BuildMode = 'package' | 'spec' | 'lock' | 'resume' | 'chain' | 'recipe' | 'schema';

const TOLD = [...Object.keys(DETACH), 'json', 'quiet', 'samples'];

const { image, packages, update, lock, ...asked } = ASKED_OF_BUILDS;

const PACKAGE = [
  ...TOLD,
  ...Object.keys(asked),
  ...['resultDirectory', 'repositories', 'ci', 'allowHost'],
];

const IMAGE = Object.keys({ image, packages, update });
const VERIFY = ['verify', 'vary'];
const SPEC = ['spec', 'sourceDirectory'];

const MODES: Readonly<
  Record<BuildMode, { readonly title: string; readonly uses: readonly string[] }>
> = {
  package: { title: 'a source package', uses: [...PACKAGE, ...IMAGE, ...VERIFY] },
  spec: { title: 'a spec', uses: [...PACKAGE, ...IMAGE, ...VERIFY, ...SPEC] },
  lock: { title: 'a build by a lock', uses: [...PACKAGE, ...VERIFY, ...SPEC, 'lock'] },
  chain: { title: 'a chain', uses: [...PACKAGE, ...IMAGE, ...Object.keys(CHAIN)] },
  resume: {
    title: 'a build that is resumed',
    uses: [...TOLD, ...Object.keys(RESUMED), 'resultDirectory', 'resume', 'ci'],
  },
  recipe: { title: 'a recipe', uses: [...TOLD, ...Object.keys(ASKED_OF_RECIPES)] },
  schema: { title: '--schema', uses: ['schema'] },
};

export function buildMode(
  source: string | undefined,
  options: BuildOptions & ChainOptions & RecipeOptions,
): BuildMode {
  if (options.schema === true) return 'schema';
  if (options.chain === true) return 'chain';
  if (options.resume !== undefined) return 'resume';
  if (source !== undefined && !isPackageOrSpec(source)) return 'recipe';
  if (options.lock !== undefined) return 'lock';
  return options.spec !== undefined || source?.endsWith('.spec') ? 'spec' : 'package';
}

export function isPackageOrSpec(source: string): boolean {
  return /\.(?:rpm|spec)$/.test(source);
}

/** Refuses options that this kind of build ignores. @throws KilnError E_ARGUMENT */
export function refuseUnused(mode: BuildMode, command: KilnCommand): void {
  const uses: ReadonlySet<string> = new Set(MODES[mode].uses);
  const unused = command.given().filter((option) => !uses.has(option.attributeName()));
  const hints = unused.map((option) => `${option.long} is for ${whatFor(option)}`);
  if (mode === 'chain' && unused.some((option) => option.attributeName() === 'spec')) {
    hints.push('a chain is of source packages: `kiln build --spec FILE` makes one as well');
  }
  refuseOptions(unused, MODES[mode].title, hints.join('; '));
}

function whatFor(option: Option): string {
  const name = option.attributeName();
  const modes = Object.values(MODES).filter(({ uses }) => uses.some((used) => used === name));
  return modes
    .map(({ title }) => title)
    .join(', ')
    .replace(/, ([^,]*)$/, ' or $1');
}
