import type { Command, Option } from 'commander';
import { KilnError } from '../../errors.ts';
import type { DetachOptions } from '../job/detach.ts';
import type { ChainOptions } from './build-chain-options.ts';
import type { BuildOptions } from './build-options.ts';
import type { RecipeOptions } from './build-recipe-options.ts';

/** The kinds of builds. */
export type BuildMode = 'package' | 'spec' | 'lock' | 'resume' | 'chain' | 'recipe' | 'schema';

type Name = keyof (BuildOptions & ChainOptions & RecipeOptions & DetachOptions);

/** Options of every build. */
const EVERY: readonly Name[] = [
  ...(['resultdir', 'keep', 'json', 'quiet', 'samples', 'timeout', 'stallTimeout'] as const),
  ...(['detach', 'name'] as const),
];

const SANDBOX: readonly Name[] = [
  ...EVERY,
  ...(['offline', 'memory', 'cpus', 'pids', 'ioRead', 'ioWrite', 'disk'] as const),
];

const SIGN: readonly Name[] = ['signKey', 'signPassphraseFile'];

const PACKAGE: readonly Name[] = [
  ...SANDBOX,
  ...SIGN,
  ...(['define', 'with', 'without', 'nocheck', 'target', 'rpmbuildOpts'] as const),
  ...(['shortCircuit', 'enableNetwork', 'network', 'egress', 'addrepo', 'cache'] as const),
  ...(['postinstall', 'provenanceKey', 'builderId', 'ci'] as const),
];

/** Options that choose the image's packages, which a lock has fixed. */
const IMAGE: readonly Name[] = ['image', 'additionalPackage', 'update'];

const MODES: Readonly<
  Record<BuildMode, { readonly title: string; readonly uses: readonly Name[] }>
> = {
  package: { title: 'a source package', uses: [...PACKAGE, ...IMAGE, 'verify', 'vary'] },
  spec: { title: 'a spec', uses: [...PACKAGE, ...IMAGE, 'verify', 'vary', 'spec', 'sources'] },
  lock: {
    title: 'a build by a lock',
    uses: [...PACKAGE, 'verify', 'vary', 'spec', 'sources', 'lock'],
  },
  chain: {
    title: 'a chain',
    uses: [...PACKAGE, ...IMAGE, 'chain', 'jobs', 'continue', 'recurse', 'farm'],
  },
  resume: {
    title: 'a build that is resumed',
    uses: [...EVERY, ...SIGN, 'shortCircuit', 'nocheck', 'resume', 'ci'],
  },
  recipe: {
    title: 'a recipe',
    uses: [...SANDBOX, 'image', 'sources', 'param', 'bind', 'allowHost', 'allowHostWrite'],
  },
  schema: { title: '--schema', uses: ['schema'] },
};

/** The kind of build that a command line asks for. */
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

/** Whether the name is a source package's or a spec's; any other is the name or path of a recipe. */
export function isPackageOrSpec(source: string): boolean {
  return /\.(?:rpm|spec)$/.test(source);
}

/**
 * Refuses options that this kind of build ignores, so that nobody believes they had an effect.
 * @throws KilnError E_ARGUMENT
 */
export function refuseUnused(mode: BuildMode, command: Command): void {
  const uses: ReadonlySet<string> = new Set(MODES[mode].uses);
  // Values from the environment or a default are only for builds that use them.
  const unused = command.options.filter(
    (option) =>
      command.getOptionValueSource(option.attributeName()) === 'cli' &&
      !uses.has(option.attributeName()),
  );
  if (unused.length === 0) return;
  const names = unused.map(({ long }) => long).join(', ');
  throw new KilnError('E_ARGUMENT', `${MODES[mode].title} takes no ${names}`, {
    hint: unused.map((option) => `${option.long} is for ${whatFor(option)}`).join('; '),
  });
}

function whatFor(option: Option): string {
  const name = option.attributeName();
  const modes = Object.values(MODES).filter(({ uses }) => uses.some((used) => used === name));
  return modes.map(({ title }) => title).join(', ');
}
