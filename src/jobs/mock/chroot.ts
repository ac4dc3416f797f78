import { hash } from 'node:crypto';
import { chmod, mkdir, readdir, stat, utimes } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import { readText } from '../../host/calls/libc.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { hostArchitecture, withArchitecture } from '../../host/process/architecture.ts';
import { writeWholeSync } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { resolveImage } from '../../image/find.ts';
import { type RecipePlace, readRecipe } from '../../image/read-recipe.ts';
import type { LoadedImageRecipe } from '../../recipe/load-image-recipe.ts';
import type { ConfigChange } from './config/evaluate.ts';
import { leftOutPlugins } from './config/left-out.ts';
import {
  type ConfigPlace,
  findConfig,
  type LoadedConfig,
  loadConfig,
  mockDirectory,
  SYSTEM_CONFIG,
} from './config/load.ts';
import { checkPlugins, namesBinds, type PluginSwitches, pluginChanges } from './config/plugins.ts';
import {
  buildSettings,
  type ConfigMeaning,
  configMeaning,
  defaultSettings,
} from './config/recipe.ts';
import type { RepositorySwitch } from './config/repositories.ts';
import {
  type ConfigOptions,
  type ConfigValue,
  type ConfigWarning,
  configError,
} from './config/values.ts';

export interface ChrootRequest {
  readonly name: string;
  /** In place of what `name` means. */
  readonly config?: readonly ConfigChange[] | undefined;
  readonly configDirectory?: string | undefined;
  readonly overrides: readonly string[];
  readonly uniqueext?: string | undefined;
  readonly resultDirectory?: string | undefined;
  readonly arch?: string | undefined;
  /** `--forcearch` */
  readonly forced?: string | undefined;
  readonly target?: string | undefined;
  readonly switches: readonly RepositorySwitch[];
  readonly plugins: PluginSwitches;
}

export interface Chroot extends Readonly<ReturnType<typeof buildSettings>> {
  readonly root: string;
  readonly user: string;
  readonly resultDirectory: string;
  readonly target: string | undefined;
  readonly switchedOn: readonly string[];
  readonly config: string;
  readonly recipe: string;
  /** As it is said now: a root was made with what was said then. */
  readonly environment: Readonly<Record<string, string>>;
  readonly warnings: readonly ConfigWarning[];
  /** The command line names the binds, not a configuration. */
  readonly bindsAreCallers: boolean;
}

interface ChrootPlace extends RecipePlace {
  cwd(): string;
}

export async function openChroot(place: ChrootPlace, request: ChrootRequest): Promise<Chroot> {
  const { paths, owner } = place;
  const config = await loadChrootConfig(place, request);
  if (config !== undefined) {
    const { recipe, ...meaning } = configMeaning(config, {
      host: hostArchitecture(),
      switches: request.switches,
      enabledPlugins: request.plugins.enabled,
    });
    // Nobody removes these at once: all roots of users that differ by --uniqueext have one.
    const { uniqueext } = request;
    const isShared = owner !== undefined && uniqueext !== undefined;
    const root = isShared ? meaning.root.slice(0, -uniqueext.length - 1) : meaning.root;
    const path = await writeRecipe(paths.mockRecipes, root, recipe);
    return {
      ...meaning,
      config: config.name,
      recipe: path,
      environment: recipe.environment ?? {},
      bindsAreCallers: namesBinds(request.plugins),
    };
  }
  return await recipeChroot(place, request);
}

export async function chrootOptions(
  place: ChrootPlace,
  request: ChrootRequest,
): Promise<ConfigOptions> {
  const config = await loadChrootConfig(place, request);
  return config?.options ?? (await recipeOptions(place, request));
}

async function loadChrootConfig(
  place: RecipePlace,
  request: ChrootRequest,
): Promise<LoadedConfig | undefined> {
  const settings = configPlace(place, request.configDirectory);
  const path = request.config === undefined ? findConfig(request.name, settings) : undefined;
  if (path === undefined && request.config === undefined) {
    if (request.name.endsWith('.cfg')) {
      throw configError(`Could not find required config file: ${resolve(request.name)}`);
    }
    return undefined;
  }
  const config = await loadConfig(path, settings, [
    ...(request.config ?? []),
    ...overrides(request.overrides),
    ...pluginChanges(request.plugins),
    ...given({
      target_arch: request.arch,
      forcearch: request.forced,
      rpmbuild_arch: request.target,
      resultdir: request.resultDirectory,
    }),
    ...(request.uniqueext === undefined ? [] : [['append', 'root', request.uniqueext] as const]),
  ]);
  checkPlugins(config.options, request.plugins);
  return config;
}

export function configPlace(
  { paths, owner }: RecipePlace,
  directory: string | undefined,
): ConfigPlace {
  return {
    paths,
    // What lies in root's home is for root's calls.
    home: owner === undefined ? homedir() : undefined,
    directory,
    // Users have the configurations of one folder, which is root's (`users.mockConfigs`).
    trusted:
      owner === undefined
        ? [SYSTEM_CONFIG, join(homedir(), '.mock'), join(homedir(), '.config')]
        : [directory ?? SYSTEM_CONFIG],
    arch: hostArchitecture(),
  };
}

function given(values: Readonly<Record<string, ConfigValue>>): ConfigChange[] {
  return Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [['set', name, value] as const],
  );
}

/**
 * `--config-opts KEY=VALUE`: `true`, `false`, `none` and whole numbers become such values; a repeated key becomes a
 * list.
 * @throws KilnError E_MOCK_CONFIG
 */
function overrides(texts: readonly string[]): ConfigChange[] {
  const values = new Map<string, ConfigValue>();
  for (const text of texts) {
    const [, key, written = ''] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
    if (key === undefined) {
      throw configError(`--config-opts ${text}: it is written KEY=VALUE`);
    }
    const before = values.get(key);
    if (before === undefined) values.set(key, read(written));
    // An empty value makes a list of the earlier ones.
    else {
      const list = Array.isArray(before) ? before : [before];
      values.set(key, written === '' ? list : [...list, read(written)]);
    }
  }
  return [...values].map(([key, value]) => ['override', key, value] as const);
}

function read(text: string): ConfigValue {
  if (/^[Tt]rue$/.test(text)) return true;
  if (/^[Ff]alse$/.test(text)) return false;
  if (/^[Nn]one$/.test(text)) return null;
  return /^-?\d+$/.test(text) ? Number(text) : text;
}

/**
 * Writes a configuration's image recipe into the state directory, for `kiln image` and builds, and returns its path.
 * Equal recipes share a file, so that a current image is recognised.
 */
export async function writeRecipe(
  recipes: string,
  root: string,
  recipe: ConfigMeaning['recipe'],
): Promise<string> {
  // JSON is valid YAML.
  const text = JSON.stringify(recipe, undefined, 2);
  const digest = hash('sha256', text, 'hex').slice(0, 16);
  const directory = join(recipes, digest);
  const path = join(directory, `${root}.yaml`);
  await mkdir(recipes, { recursive: true, mode: 0o755 });
  // Names of roots are nobody else's business.
  await chmod(recipes, 0o700);
  if (readText(path) === text) {
    // When it was last used; the file's own time says whether its image is current.
    const now = new Date();
    await utimes(directory, now, now);
    return path;
  }
  await mkdir(directory, { recursive: true, mode: 0o755 });
  writeWholeSync(path, text);
  return path;
}

/** Removes recipes that no call has used for `maxAge` milliseconds. */
export async function pruneRecipes(
  { mockRecipes: directory }: StatePaths,
  maxAge: number,
): Promise<void> {
  for (const name of await readdir(directory).catch(() => [])) {
    const used = await stat(join(directory, name)).catch(() => undefined);
    if (used === undefined || Date.now() - used.mtimeMs < maxAge) continue;
    await removeTree(join(directory, name));
  }
}

async function recipeChroot(place: ChrootPlace, request: ChrootRequest): Promise<Chroot> {
  const { paths } = place;
  const { path, arch, recipe } = await findRecipe(place, request);
  const root = rootOf(recipe, request);
  // A recipe does without Python, unless plugins are said something of.
  const changes = pluginChanges(request.plugins);
  const options = changes.length === 0 ? undefined : await defaults(place, request, changes);
  return {
    ...(options === undefined ? defaultSettings(mockDirectory(paths)) : buildSettings(options)),
    config: basename(path, '.yaml'),
    recipe: withArchitecture(path, arch),
    environment: recipe.environment,
    root,
    user: buildUser(recipe),
    resultDirectory: request.resultDirectory ?? join(mockDirectory(paths), root, 'result'),
    target: request.target,
    switchedOn: [],
    warnings: options === undefined ? [] : leftOutPlugins(options, () => undefined),
    bindsAreCallers: namesBinds(request.plugins),
  };
}

/** A recipe as mock's options, for `--debug-config`, without repositories, which have more settings than a dnf.conf. */
async function recipeOptions(place: ChrootPlace, request: ChrootRequest): Promise<ConfigOptions> {
  const { path, recipe } = await findRecipe(place, request);
  const user = buildUser(recipe);
  const account = recipe.users.find(({ name }) => name === user);
  const groups = recipe.groups.map((name) => `@${name}`);
  return await defaults(place, request, [
    ...pluginChanges(request.plugins),
    ...given({
      chroot_name: basename(path, '.yaml'),
      config_file: path,
      root: rootOf(recipe, request),
      description: recipe.description,
      target_arch: recipe.arch,
      chroot_setup_cmd: ['install', ...recipe.packages, ...groups],
      chrootuser: user,
      chrootuid: account?.uid,
      chroothome: account?.home,
      rpmbuild_arch: request.target,
      resultdir: request.resultDirectory,
    }),
    ['set', 'environment', recipe.environment],
    ['set', 'macros', {}],
  ]);
}

async function defaults(
  place: RecipePlace,
  request: ChrootRequest,
  changes: readonly ConfigChange[],
): Promise<ConfigOptions> {
  const { options } = await loadConfig(
    undefined,
    configPlace(place, request.configDirectory),
    changes,
  );
  checkPlugins(options, request.plugins);
  return options;
}

async function findRecipe(
  place: ChrootPlace,
  request: ChrootRequest,
): Promise<{
  readonly path: string;
  readonly arch: string | undefined;
  readonly recipe: LoadedImageRecipe;
}> {
  const { name, overrides, switches } = request;
  const named = await resolveImage(place, name, place.cwd()).catch((cause: unknown) => {
    const file = join(request.configDirectory ?? SYSTEM_CONFIG, `${name}.cfg`);
    const known = cause instanceof KilnError ? `${cause.hint ?? ''} ` : '';
    const hint =
      name === 'default'
        ? "say which chroot with -r; kiln's own recipes will do, such as -r debian-build"
        : `${known}(neither a configuration of mock's nor a recipe of kiln's)`.trim();
    throw configError(`Could not find required config file: ${file}`, undefined, { hint });
  });
  if (named.kind !== 'recipe') {
    throw configError(`${name} is not a recipe, and a root needs its repositories`, undefined, {
      hint: 'name a recipe (.yaml) or a configuration (.cfg)',
    });
  }
  if (overrides.length > 0 || switches.length > 0) {
    throw configError(`${name} is a recipe of kiln's: there are no options to change in it`);
  }
  const arch = request.forced ?? named.arch;
  const recipe = await readRecipe(place, named.path, arch);
  if (request.arch !== undefined && request.arch !== recipe.arch) {
    throw configError(`${name} is for ${recipe.arch}, not for ${request.arch} (--arch)`);
  }
  return { path: named.path, arch, recipe };
}

function rootOf({ name }: LoadedImageRecipe, { uniqueext }: ChrootRequest): string {
  return uniqueext === undefined ? name : `${name}-${uniqueext}`;
}

function buildUser({ user }: LoadedImageRecipe): string {
  return user === 'root' ? '1000:1000' : user;
}
