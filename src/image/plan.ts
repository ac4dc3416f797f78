import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import type { HeldPath } from '../host/files/held.ts';
import { readUserFile, writeUserFile } from '../host/files/user-file.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { Repository } from '../packages/repository/configuration.ts';
import { type Lock, sourceSchema } from '../packages/repository/lock/lock.ts';
import { openRepositories } from '../packages/repository/open.ts';
import { lockAccess } from '../packages/repository/transport/access.ts';
import { solve } from '../packages/solver/solve.ts';
import type { RecipeFiles } from '../recipe/folder.ts';
import { type LoadedImageRecipe, loadImageRecipe } from '../recipe/load-image-recipe.ts';
import { findRecipe, recipeOf } from '../recipe/named.ts';
import { requireInit } from '../sandbox/domain/skeleton.ts';
import type { Engine } from '../sandbox/open.ts';
import { ensureImage, type ImageSettings } from './build.ts';
import { imageNameOf, type NamedImage, resolveImage } from './find.ts';
import { hostArchitecture } from './key.ts';
import type { OpenImageOptions } from './open.ts';
import type { OnImageProgress } from './progress.ts';
import { fingerprint, writeReference } from './reference.ts';
import { type PackageUser, reachOf } from './store/entry.ts';
import type { LeasedImage } from './store/images.ts';
import type { FileToWrite } from './tree/customize.ts';

const SOURCE_LIMIT_MB = 64;

/**
 * Solves from today's repositories, even if a current image is known, unless there is a lock.
 * @throws KilnError E_NO_GUEST_INIT before anything is fetched, since scriptlets run in sandboxes
 */
export async function buildNamed(
  engine: Engine,
  named: Exclude<NamedImage, { kind: 'image' }>,
  options: OpenImageOptions = {},
): Promise<LeasedImage> {
  requireInit();
  const plan =
    named.kind === 'lock'
      ? await planFromLock(named.path)
      : await planFromRecipe(engine, named.path, options);
  const meant = meantInstead(engine.paths, plan.settings.name, named.path);
  const from = usersFiles(engine, named.path)?.nameOf(named.path) ?? named.path;
  const request = { engine, ...plan, ...options, from, meant };
  // A user's recipe is a copy, for this one job; its files are not this process's to look at.
  if (plan.user !== undefined) return await ensureImage(request);
  const prints = plan.sources.map(fingerprint);
  const image = await ensureImage(request);
  await writeReference(engine.paths, named.path, image.manifest.id, prints);
  return image;
}

/** The recipe that a name means, where that is another one than `path`. */
function meantInstead(paths: StatePaths, name: string, path: string): string | undefined {
  const meant = recipeOf(paths, name);
  return meant === path ? undefined : meant;
}

interface ImagePlan {
  readonly lock: Lock;
  readonly settings: ImageSettings;
  readonly sources: readonly string[];
  readonly user?: PackageUser | undefined;
  readonly warnings: readonly string[];
}

async function planFromLock(path: string): Promise<ImagePlan> {
  const { lockedSettings, readImageLock } = await import('./lock.ts');
  const lock = await readImageLock(path);
  const { packages } = lock;
  const sources = [path, ...keyFiles(packages.repositories)];
  // Whoever wrote the lock has no say in what names mean here.
  const settings = { ...lockedSettings(lock), name: imageNameOf(path) };
  return { lock: packages, settings, sources, warnings: [] };
}

interface RecipePlan extends ImagePlan {
  readonly recipe: LoadedImageRecipe;
}

/** A user's recipe is read and solved once for a job: all builds of a chain have one image. */
const ownRecipes = new WeakMap<RecipeFiles, Map<string, LoadedImageRecipe>>();
const ownPlans = new WeakMap<LoadedImageRecipe, RecipePlan>();

export async function planFromRecipe(
  place: RecipePlace,
  path: string,
  options: OpenImageOptions,
): Promise<RecipePlan> {
  const recipe = await readRecipe(place, path);
  const known = ownPlans.get(recipe);
  if (known !== undefined) return known;
  const plan = await planRecipe(place, path, recipe, options);
  if (plan.user !== undefined) ownPlans.set(recipe, plan);
  return plan;
}

async function planRecipe(
  place: RecipePlace,
  path: string,
  recipe: LoadedImageRecipe,
  options: OpenImageOptions,
): Promise<RecipePlan> {
  const { paths } = place;
  const settings = await settingsOf(recipe);
  const files = usersFiles(place, path);
  const user = files && place.owner;
  const lockPath = await lockBeside(path, files);
  const sources = [
    ...recipe.sources,
    // Where root puts a recipe in place of one that comes with kiln.
    ...recipe.sources.map((source) => join(paths.recipes, basename(source))),
    lockPath ?? lockPathOf(path),
    ...recipe.files.flatMap((file) => (file.source === undefined ? [] : [file.source])),
    ...keyFiles(recipe.repositories),
  ];
  if (options.update !== true && lockPath !== undefined) {
    const { askedDigest, readImageLock } = await import('./lock.ts');
    const lock = await readImageLock(lockPath);
    if (lock.asked !== askedDigest(recipe)) {
      throw new KilnError(
        'E_LOCK_STALE',
        `the lock ${lockPath} was made for another version of ${path}`,
        {
          hint: '`kiln image lock` makes it anew; `--update` ignores it',
        },
      );
    }
    const trusted = withTrustOf(recipe.repositories, lock.packages, lockPath, user);
    return { recipe, settings, sources, user, lock: trusted, warnings: [] };
  }
  const { lock, warnings } = await solveRecipe(paths, recipe, options, user);
  return { recipe, settings, sources, user, lock, warnings };
}

function keyFiles(repositories: readonly Pick<Repository, 'gpgkey'>[]): string[] {
  return [...new Set(repositories.flatMap(({ gpgkey }) => gpgkey))];
}

async function lockBeside(
  path: string,
  files: RecipeFiles | undefined,
): Promise<string | undefined> {
  const beside = lockPathOf(files?.nameOf(path) ?? path);
  if (files === undefined) return existsSync(beside) ? beside : undefined;
  try {
    return await files.file(beside);
  } catch (error) {
    if (error instanceof KilnError && hasErrno(error.cause, 'ENOENT')) return undefined;
    throw error;
  }
}

/**
 * The lock pins packages, but the current recipe says whom to trust. A user's lock may name any file of the
 * host: only its packages count. @throws KilnError E_LOCK_STALE
 */
function withTrustOf(
  recipe: readonly Repository[],
  lock: Lock,
  path: string,
  user: PackageUser | undefined,
): Lock {
  const repositories = lock.repositories.map((locked) => {
    const now = recipe.find(({ id }) => id === locked.id);
    if (now !== undefined) {
      const source = user === undefined ? locked.source : sourceSchema.parse(now.source);
      return { ...locked, source, gpgcheck: now.gpgcheck, gpgkey: [...now.gpgkey] };
    }
    if (user === undefined) return locked;
    throw new KilnError('E_LOCK_STALE', `${path} has a repository ${locked.id}, the recipe none`, {
      hint: '`kiln image build --update` goes without the lock',
    });
  });
  return { ...lock, repositories, ...lockAccess(recipe) };
}

function lockPathOf(recipePath: string): string {
  return recipePath.replace(/\.ya?ml$/, '.lock.json');
}

async function solveRecipe(
  paths: StatePaths,
  recipe: LoadedImageRecipe,
  { update, offline, onProgress, signal }: OpenImageOptions,
  user: PackageUser | undefined,
): Promise<{ readonly lock: Lock; readonly warnings: readonly string[] }> {
  const set = await openRepositories(recipe.repositories, {
    ...reachOf(paths, user),
    refresh: offline === true ? 'never' : update === true ? 'always' : 'auto',
    onProgress,
    signal,
  });
  return await solve(set, {
    arch: recipe.arch,
    install: [...recipe.packages, ...recipe.groups.map((group) => `@${group}`)],
    exclude: recipe.exclude,
    modules: recipe.modules,
    recommends: recipe.recommends,
    signal,
    onProgress,
  });
}

export async function settingsOf(recipe: LoadedImageRecipe): Promise<ImageSettings> {
  const { name, description, users, environment, user, workdir, scriptlets } = recipe;
  const files = await Promise.all(recipe.files.map(readSource));
  return { name, description, users, environment, user, workdir, scriptlets, files };
}

async function readSource(file: LoadedImageRecipe['files'][number]): Promise<FileToWrite> {
  const { path, mode, owner, group } = file;
  if (file.source === undefined) {
    return { path, mode, owner, group, content: Buffer.from(file.content ?? '') };
  }
  try {
    const content = readUserFile(file.source, SOURCE_LIMIT_MB * 1024 * 1024);
    return { path, mode, owner, group, content };
  } catch (cause) {
    throw new KilnError('E_RECIPE_READ', `cannot read ${file.source}, the source of ${path}`, {
      cause,
      hint: `it must be a regular file of at most ${SOURCE_LIMIT_MB} MB; put larger files into a package`,
    });
  }
}

function usersFiles({ owner }: Pick<Engine, 'owner'>, path: string): RecipeFiles | undefined {
  return owner?.files?.nameOf(path) === undefined ? undefined : owner.files;
}

export type RecipePlace = Pick<Engine, 'paths' | 'owner'>;

export async function readRecipe(place: RecipePlace, path: string): Promise<LoadedImageRecipe> {
  const { paths } = place;
  const variables = {
    KILN_STATE: paths.root,
    KILN_FIXTURES: paths.fixtures,
  };
  const findByName = (name: string, extending: string) => findRecipe(paths, name, extending);
  const files = usersFiles(place, path);
  const read = () =>
    loadImageRecipe(path, { variables, arch: hostArchitecture(), findByName, files });
  if (files === undefined) {
    const roots = await read();
    // Root's own login is for those whom root lets have it.
    const isPrivate = roots.repositories.some(({ access }) => access !== undefined);
    const isSeen = place.owner?.seesOfRoot({ name: roots.name, private: isPrivate }) ?? true;
    if (isSeen) return roots;
    throw new KilnError('E_IMAGE_MISSING', `there is no image and no recipe called ${roots.name}`, {
      hint: '`kiln image ls` lists the images that you may use',
    });
  }
  const recipes = ownRecipes.get(files) ?? new Map<string, LoadedImageRecipe>();
  ownRecipes.set(files, recipes);
  const recipe = recipes.get(path) ?? (await read());
  recipes.set(path, recipe);
  return recipe;
}

/**
 * Solves a recipe and writes its lock.
 * @param open opens the place for it, which is beside the recipe unless the caller has said otherwise
 * @throws KilnError E_ARGUMENT, and what solving throws
 */
export async function lockRecipe(
  engine: Engine,
  name: string,
  open: (beside: string) => Promise<HeldPath>,
  onProgress: OnImageProgress,
): Promise<{ readonly file: string; readonly warnings: readonly string[] }> {
  const named = await resolveImage(engine, name, engine.cwd());
  if (named.kind !== 'recipe') {
    throw new KilnError('E_ARGUMENT', `${name} is not a recipe, and only recipes are locked`, {
      hint: 'give a recipe’s name, or the path of its .yaml file',
    });
  }
  const files = usersFiles(engine, named.path);
  const file = await open(lockPathOf(files?.nameOf(named.path) ?? named.path));
  await checkOutput(file);
  const plan = await planFromRecipe(engine, named.path, { update: true, onProgress });
  const { askedDigest, imageLock } = await import('./lock.ts');
  const asked = askedDigest(plan.recipe);
  const { lock, settings } = plan;
  const repositories = engine.renamed(lock.repositories);
  const made = imageLock(settings, { ...lock, repositories }, asked, plan.recipe.modules);
  try {
    writeUserFile(file, `${JSON.stringify(made, undefined, 2)}\n`);
  } catch (cause) {
    throw unwritable(file, cause);
  }
  return { file, warnings: plan.warnings };
}

async function checkOutput(file: HeldPath): Promise<void> {
  const folder = dirname(resolve(file));
  const [there, at] = await Promise.all([stat(folder), stat(file).catch(() => undefined)]).catch(
    (cause: unknown) => {
      throw unwritable(file, cause);
    },
  );
  if (!there.isDirectory()) throw unwritable(file, new Error(`${folder} is not a directory`));
  if (at?.isDirectory()) throw unwritable(file, new Error('it is a directory'));
}

function unwritable(file: string, cause: unknown): KilnError {
  return new KilnError('E_ARGUMENT', `cannot write ${file}`, {
    hint: 'name a file in a directory that is there and can be written: -o FILE',
    cause,
  });
}
