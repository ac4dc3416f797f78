import type { Option } from 'commander';
import { defined } from '../../defined.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { hostArchitecture, splitArchitecture } from '../../host/process/architecture.ts';
import {
  type AskedBuild,
  addedRepository,
  type BuildRequest,
  type BuildSource,
} from '../../jobs/rpmbuild/request.ts';
import {
  ASKED_OF_BUILDS,
  ASKED_OF_RECIPES,
  BUILDS,
  type BuildOptions,
  CHAIN,
  type ChainOptions,
  RESUMED,
  type RecipeOptions,
} from '../../options/build.ts';
import { type Rows, valuesIn } from '../../options/row.ts';
import { DETACH } from '../../options/sandbox.ts';
import type { OptionCaller } from '../caller/caller.ts';
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

export function buildRequest(
  srpm: HeldPath | undefined,
  options: BuildOptions,
  command: KilnCommand,
  caller: OptionCaller,
): AskedBuild {
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
  if (options.network === 'private') {
    return command.error('kiln: private is the network of a build without --enable-network');
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
  const { arch = hostArchitecture() } = splitArchitecture(image ?? '');
  return {
    ...valuesIn(ASKED_OF_BUILDS, options),
    image: image ?? '',
    source: source(srpm, options, command),
    caller: caller.ids,
    repositories: options.repositories.map((text, index) =>
      addedRepository(text, index, arch, caller.cwd()),
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

const { image, packages, update, lock, ...asked } = ASKED_OF_BUILDS;
const { json, quiet, samples, resultDirectory, repositories, ci, allowHost, ...more } = BUILDS;
const { verify, vary, spec, sourceDirectory, resume, schema } = more;

const TOLD = { ...DETACH, json, quiet, samples };
const PACKAGE = { ...TOLD, ...asked, resultDirectory, repositories, ci, allowHost };
const SOURCE = { ...PACKAGE, image, packages, update, verify, vary };

const MODES: Readonly<Record<BuildMode, { readonly title: string; readonly uses: Rows }>> = {
  package: { title: 'a source package', uses: SOURCE },
  spec: { title: 'a spec', uses: { ...SOURCE, spec, sourceDirectory } },
  lock: {
    title: 'a build by a lock',
    uses: { ...PACKAGE, verify, vary, spec, sourceDirectory, lock },
  },
  chain: { title: 'a chain', uses: { ...PACKAGE, image, packages, update, ...CHAIN } },
  resume: {
    title: 'a build that is resumed',
    uses: { ...TOLD, ...RESUMED, resultDirectory, resume, ci },
  },
  recipe: { title: 'a recipe', uses: { ...TOLD, ...ASKED_OF_RECIPES } },
  schema: { title: '--schema', uses: { schema } },
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
  const { title, uses } = MODES[mode];
  const unused = command.given().filter((option) => !Object.hasOwn(uses, option.attributeName()));
  const hints = unused.map((option) => `${option.long} is for ${whatFor(option)}`);
  if (mode === 'chain' && unused.some((option) => option.attributeName() === 'spec')) {
    hints.push('a chain is of source packages: `kiln build --spec FILE` makes one as well');
  }
  refuseOptions(unused, title, hints.join('; '));
}

function whatFor(option: Option): string {
  const name = option.attributeName();
  const modes = Object.values(MODES).filter(({ uses }) => Object.hasOwn(uses, name));
  return modes
    .map(({ title }) => title)
    .join(', ')
    .replace(/, ([^,]*)$/, ' or $1');
}
