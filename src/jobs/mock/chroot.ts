import { resolve } from 'node:path';
import type { StatePaths } from '../../host/state/paths.ts';
import { hostArchitecture } from '../../image/key.ts';
import type { RecipePlace } from '../../image/plan.ts';
import { type ConfigWarning, configError } from './config/language/problem.ts';
import { asText, type ConfigOptions } from './config/language/values.ts';
import { findConfig, type LoadedConfig, loadConfig } from './config/load.ts';
import { overrideOptions } from './config/override.ts';
import { type PluginSwitches, switchPlugins } from './config/plugins.ts';
import { type ConfigMeaning, configMeaning } from './config/recipe.ts';
import type { RepositorySwitch } from './config/repositories.ts';
import { writeRecipe } from './config/write-recipe.ts';
import { recipeChroot, recipeOptions } from './recipe-chroot.ts';

/** The command line's choice of a root. */
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
  readonly plugins: PluginSwitches;
}

/** A chroot of mock's as kiln has it: an image recipe, and how to use it. */
export interface Chroot extends Omit<ConfigMeaning, 'recipe' | 'warnings'> {
  /** The text of `-r`, for messages. */
  readonly config: string;
  /** The image recipe's path. */
  readonly recipe: string;
  readonly warnings: readonly ConfigWarning[];
}

/**
 * Finds what `-r NAME` means: first a configuration of mock's, then a recipe of kiln's.
 * @throws KilnError E_MOCK_CONFIG, E_RECIPE.
 */
export async function openChroot(place: RecipePlace, request: ChrootRequest): Promise<Chroot> {
  const { paths } = place;
  const config = loadChrootConfig(paths, request);
  if (config !== undefined) {
    const { recipe, ...meaning } = configMeaning(config, {
      host: hostArchitecture(),
      switches: request.switches,
      enabledPlugins: request.plugins.enabled,
    });
    const path = await writeRecipe(paths, { root: meaning.root, recipe });
    return { ...meaning, config: config.name, recipe: path };
  }
  return await recipeChroot(place, request);
}

/**
 * The meaning of `-r NAME` as mock's options, for `--debug-config`.
 * @throws KilnError as {@link openChroot}
 */
export async function chrootOptions(
  place: RecipePlace,
  request: ChrootRequest,
): Promise<ConfigOptions> {
  return loadChrootConfig(place.paths, request)?.options ?? (await recipeOptions(place, request));
}

/** The configuration of `-r NAME` with the command line's changes; undefined if there is none. */
function loadChrootConfig(paths: StatePaths, request: ChrootRequest): LoadedConfig | undefined {
  const settings = {
    paths,
    directory: request.configDirectory,
    arch: hostArchitecture(),
    adjust: (options: ConfigOptions) => adjustOptions(options, request),
  };
  const path = findConfig(request.name, settings);
  if (path === undefined) {
    if (request.name.endsWith('.cfg')) {
      throw configError(`Could not find required config file: ${resolve(request.name)}`);
    }
    return undefined;
  }
  return loadConfig(path, settings);
}

/** Applies the command line's options in mock's order. */
function adjustOptions(options: ConfigOptions, request: ChrootRequest): void {
  overrideOptions(options, request.overrides);
  switchPlugins(options, request.plugins);
  if (request.arch !== undefined) options.set('target_arch', request.arch);
  if (request.target !== undefined) options.set('rpmbuild_arch', request.target);
  if (request.resultDirectory !== undefined) options.set('resultdir', request.resultDirectory);
  if (request.uniqueext !== undefined && options.has('root')) {
    options.set('root', `${asText(options.get('root'))}-${request.uniqueext}`);
  }
}
