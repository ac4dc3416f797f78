import { basename, join, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { hostArchitecture } from '../image/architecture.ts';
import { resolveImage } from '../image/find.ts';
import { readRecipe } from '../image/plan.ts';
import type { StatePaths } from '../state/paths.ts';
import { mockDirectory } from './config/defaults.ts';
import { findConfig, type LoadedConfig, loadConfig, SYSTEM_CONFIG } from './config/load.ts';
import { overrideOptions } from './config/override.ts';
import { type ConfigWarning, configError } from './config/problem.ts';
import { type ConfigMeaning, configMeaning } from './config/recipe.ts';
import type { RepositorySwitch } from './config/repositories.ts';
import { asText } from './config/values.ts';
import { writeRecipe } from './config/write-recipe.ts';

/** What the command line says about which root is meant. */
export interface ChrootRequest {
  /** `-r`: a configuration's name or path, or a recipe of kiln's. */
  readonly name: string;
  readonly configDirectory?: string | undefined;
  /** `--config-opts`, each KEY=VALUE. */
  readonly overrides: readonly string[];
  readonly uniqueext?: string | undefined;
  readonly resultDirectory?: string | undefined;
  readonly arch?: string | undefined;
  readonly target?: string | undefined;
  readonly switches: readonly RepositorySwitch[];
}

/** What a chroot of mock's is in kiln: an image recipe, and how to use it. */
export interface Chroot extends Omit<ConfigMeaning, 'recipe' | 'warnings'> {
  /** What `-r` said, as messages call it. */
  readonly config: string;
  /** The image recipe's path. */
  readonly recipe: string;
  readonly warnings: readonly ConfigWarning[];
}

/**
 * Finds out what `-r NAME` means: a configuration of mock's first, then a recipe of kiln's.
 * @throws KilnError E_MOCK_CONFIG, E_RECIPE.
 */
export async function openChroot(paths: StatePaths, request: ChrootRequest): Promise<Chroot> {
  const config = loadChrootConfig(paths, request);
  if (config !== undefined) {
    const { recipe, ...meaning } = configMeaning(config, {
      host: hostArchitecture(),
      switches: request.switches,
    });
    const path = await writeRecipe(paths, { root: meaning.root, recipe });
    return { ...meaning, config: config.name, recipe: path };
  }
  return await fromRecipe(paths, request);
}

/** The configuration that `-r NAME` means, with what the command line says; undefined if there is none. */
export function loadChrootConfig(
  paths: StatePaths,
  request: ChrootRequest,
): LoadedConfig | undefined {
  const settings = {
    paths,
    directory: request.configDirectory,
    arch: hostArchitecture(),
  };
  const path = findConfig(request.name, settings);
  if (path === undefined) {
    if (request.name.endsWith('.cfg')) {
      throw configError(`Could not find required config file: ${resolve(request.name)}`);
    }
    return undefined;
  }
  const config = loadConfig(path, settings);
  const { options } = config;
  overrideOptions(options, request.overrides);
  if (request.arch !== undefined) options.set('target_arch', request.arch);
  if (request.target !== undefined) options.set('rpmbuild_arch', request.target);
  if (request.resultDirectory !== undefined) options.set('resultdir', request.resultDirectory);
  if (request.uniqueext !== undefined) {
    options.set('root', `${asText(options.get('root'))}-${request.uniqueext}`);
  }
  return config;
}

async function fromRecipe(paths: StatePaths, request: ChrootRequest): Promise<Chroot> {
  const { name, uniqueext, overrides, switches } = request;
  const named = await resolveImage(paths, name).catch((cause: unknown) => {
    const directory = request.configDirectory ?? SYSTEM_CONFIG;
    const hint = cause instanceof KilnError ? cause.hint : undefined;
    throw configError(
      `Could not find required config file: ${join(directory, `${name}.cfg`)}`,
      undefined,
      {
        hint:
          name === 'default'
            ? "say which chroot with -r; kiln's own recipes will do, such as -r debian-build"
            : `${hint ?? ''} (neither a configuration of mock's nor a recipe of kiln's)`.trim(),
      },
    );
  });
  if (named.kind !== 'recipe') {
    throw configError(`${name} is no recipe, and a root needs its repositories`, undefined, {
      hint: 'name a recipe (.yaml) or a configuration (.cfg)',
    });
  }
  if (overrides.length > 0 || switches.length > 0) {
    throw configError(`${name} is a recipe of kiln's: there are no options to change in it`);
  }
  const recipe = await readRecipe(paths, named.path);
  if (request.arch !== undefined && request.arch !== recipe.arch) {
    throw configError(`${name} is for ${recipe.arch}, not for ${request.arch} (--arch)`);
  }
  const root = uniqueext === undefined ? recipe.name : `${recipe.name}-${uniqueext}`;
  return {
    config: basename(named.path, '.yaml'),
    recipe: named.path,
    root,
    user: recipe.user === 'root' ? '1000:1000' : recipe.user,
    basedir: mockDirectory(paths),
    resultDirectory: request.resultDirectory ?? join(mockDirectory(paths), root, 'result'),
    network: false,
    hostname: undefined,
    rpmbuildTimeout: 0,
    clean: true,
    cleanupOnSuccess: true,
    cleanupOnFailure: true,
    check: true,
    postInstall: false,
    rpmbuildOptions: '',
    target: request.target,
    ccache: undefined,
    sign: undefined,
    warnings: [],
  };
}
