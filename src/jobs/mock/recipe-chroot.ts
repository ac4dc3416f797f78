/** Uses kiln's recipes in place of mock's configurations. */

import { basename, join } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { resolveImage } from '../../image/find.ts';
import { hostArchitecture } from '../../image/key.ts';
import { type RecipePlace, readRecipe } from '../../image/plan.ts';
import type { LoadedImageRecipe } from '../../recipe/load-image-recipe.ts';
import type { Chroot, ChrootRequest } from './chroot.ts';
import { bindMounts } from './config/bind-mount.ts';
import { defaultOptions, mockDirectory } from './config/defaults.ts';
import { configError } from './config/language/problem.ts';
import { Templates } from './config/language/template.ts';
import type { ConfigOptions } from './config/language/values.ts';
import { leftOutPlugins } from './config/left-out.ts';
import { SYSTEM_CONFIG } from './config/load.ts';
import { switchPlugins } from './config/plugins.ts';
import { ccacheSize, omittedFiles } from './config/recipe.ts';
import { signPlugin } from './config/sign.ts';

interface NamedRecipe {
  readonly path: string;
  readonly recipe: LoadedImageRecipe;
}

/** A recipe of kiln's as a chroot of mock's. */
export async function recipeChroot(place: RecipePlace, request: ChrootRequest): Promise<Chroot> {
  const { paths } = place;
  const { path, recipe } = await findRecipe(place, request);
  const root = rootOf(recipe, request);
  const options = new Templates(pluginOptions(paths, request));
  const sign = signPlugin(options);
  return {
    config: basename(path, '.yaml'),
    recipe: path,
    root,
    user: buildUser(recipe),
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
    ccache: ccacheSize(options),
    sign: sign === 'other' ? undefined : sign,
    omit: omittedFiles(options),
    binds: bindMounts(options),
    publish: false,
    moreBuildRequires: new Map(),
    switchedOn: [],
    warnings: leftOutPlugins(options, () => undefined),
  };
}

/**
 * A recipe as mock's options, for `--debug-config`: the parts for which mock has an option. Its repositories
 * are left out, because they have more settings than a dnf.conf.
 */
export async function recipeOptions(
  place: RecipePlace,
  request: ChrootRequest,
): Promise<ConfigOptions> {
  const { paths } = place;
  const { path, recipe } = await findRecipe(place, request);
  const options = pluginOptions(paths, request);
  const user = buildUser(recipe);
  const account = recipe.users.find(({ name }) => name === user);
  const values = {
    chroot_name: basename(path, '.yaml'),
    config_file: path,
    root: rootOf(recipe, request),
    description: recipe.description,
    target_arch: recipe.arch,
    chroot_setup_cmd: ['install', ...recipe.packages, ...recipe.groups.map((name) => `@${name}`)],
    chrootuser: user,
    environment: new Map(Object.entries(recipe.environment)),
    macros: new Map(),
    ...(account === undefined ? {} : { chrootuid: account.uid, chroothome: account.home }),
    ...defined({ rpmbuild_arch: request.target, resultdir: request.resultDirectory }),
  };
  for (const [name, value] of Object.entries(values)) options.set(name, value);
  options.delete('dnf.conf');
  return options;
}

async function findRecipe(place: RecipePlace, request: ChrootRequest): Promise<NamedRecipe> {
  const { name, overrides, switches } = request;
  const named = await resolveImage(place, name, place.cwd()).catch((cause: unknown) => {
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
  const recipe = await readRecipe(place, named.path);
  if (request.arch !== undefined && request.arch !== recipe.arch) {
    throw configError(`${name} is for ${recipe.arch}, not for ${request.arch} (--arch)`);
  }
  return { path: named.path, recipe };
}

/** mock's defaults with the command line's plugins: a recipe has none of its own. */
function pluginOptions(paths: StatePaths, request: ChrootRequest): ConfigOptions {
  const options = defaultOptions(paths, { arch: hostArchitecture() });
  switchPlugins(options, request.plugins);
  return options;
}

function rootOf({ name }: LoadedImageRecipe, { uniqueext }: ChrootRequest): string {
  return uniqueext === undefined ? name : `${name}-${uniqueext}`;
}

function buildUser({ user }: LoadedImageRecipe): string {
  return user === 'root' ? '1000:1000' : user;
}
