import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { foundAt } from '../host/files/held.ts';
import { withArchitecture } from '../host/process/architecture.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { Lock } from '../packages/repository/lock/lock.ts';
import { openRepositories } from '../packages/repository/open.ts';
import { solve } from '../packages/solver/solve.ts';
import type { RecipeFiles } from '../recipe/folder.ts';
import type { LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import { recipeOf } from '../recipe/named.ts';
import { requireInit } from '../sandbox/domain/skeleton.ts';
import { ensureImage, type ImageSettings } from './build.ts';
import { imageNameOf, type NamedImage, type NamedRecipe } from './find.ts';
import type { OnImageProgress } from './progress.ts';
import { type RecipePlace, readRecipe, settingsOf, usersFiles } from './read-recipe.ts';
import { fingerprint, sourceKey, writeReference } from './reference.ts';
import { type PackageUser, reachOf } from './store/entry.ts';
import type { LeasedImage } from './store/images.ts';

export interface OpenImageOptions {
  readonly update?: boolean;
  readonly offline?: boolean;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Solves from today's repositories, even if a current image is known, unless there is a lock.
 * @throws KilnError E_NO_GUEST_INIT before anything is fetched, since scriptlets run in sandboxes
 */
export async function buildNamed(
  engine: Engine,
  named: Extract<NamedImage, { readonly path: string }>,
  options: OpenImageOptions = {},
): Promise<LeasedImage> {
  requireInit();
  const plan =
    named.kind === 'lock'
      ? await planFromLock(engine, named.path)
      : await planFromRecipe(engine, named, options);
  const meant = meantInstead(engine.paths, plan.settings.name, named.path);
  const file = usersFiles(engine, named.path)?.nameOf(named.path) ?? named.path;
  const from = sourceKey({ ...named, path: file });
  // What no name means is called by its path.
  const settings = meant === undefined ? plan.settings : { ...plan.settings, name: from };
  const request = { engine, ...plan, ...options, settings, from, meant };
  // A user's recipe is a copy, for this one job; its files are not this process's to look at.
  if (plan.user !== undefined) return await ensureImage(request);
  const prints = plan.sources.map(fingerprint);
  const image = await ensureImage(request);
  await writeReference(engine.paths, sourceKey(named), image.manifest.id, prints);
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

async function planFromLock(place: RecipePlace, path: string): Promise<ImagePlan> {
  const { lockedSettings } = await import('./lock.ts');
  const { readGivenLock } = await import('./given-lock.ts');
  const lock = await readGivenLock(place, path);
  const { packages } = lock;
  const sources = [path, ...keyFiles(packages.repositories)];
  // Whoever wrote the lock has no say in what names mean here.
  const settings = { ...lockedSettings(lock), name: imageNameOf(path) };
  return { lock: packages, settings, sources, warnings: [] };
}

function keyFiles(repositories: readonly { readonly gpgkey: readonly string[] }[]): string[] {
  return [...new Set(repositories.flatMap(({ gpgkey }) => gpgkey))];
}

interface RecipePlan extends ImagePlan {
  readonly recipe: LoadedImageRecipe;
}

/** A user's recipe is solved once for a job. */
const ownPlans = new WeakMap<LoadedImageRecipe, RecipePlan>();

export async function planFromRecipe(
  place: RecipePlace,
  { path, arch }: Omit<NamedRecipe, 'kind'>,
  options: OpenImageOptions,
): Promise<RecipePlan> {
  const recipe = await readRecipe(place, path, arch);
  const known = ownPlans.get(recipe);
  if (known !== undefined) return known;
  const plan = await planRecipe(place, { path, arch }, recipe, options);
  if (plan.user !== undefined) ownPlans.set(recipe, plan);
  return plan;
}

async function planRecipe(
  place: RecipePlace,
  { path, arch }: { readonly path: string; readonly arch: string | undefined },
  recipe: LoadedImageRecipe,
  options: OpenImageOptions,
): Promise<RecipePlan> {
  const { paths } = place;
  const settings = await settingsOf(recipe);
  const files = usersFiles(place, path);
  const user = files && place.owner;
  const lockPath = await lockBeside(path, files, arch);
  const sources = [
    ...recipe.sources,
    // Where root puts a recipe in place of one that comes with kiln.
    ...recipe.sources.map((source) => join(paths.recipes, basename(source))),
    lockPath ?? lockPathOf(path, arch),
    ...recipe.files.flatMap((file) => (file.source === undefined ? [] : [file.source])),
    ...keyFiles(recipe.repositories),
  ];
  if (options.update !== true && lockPath !== undefined) {
    const { lockedPackages } = await import('./given-lock.ts');
    const about = { recipe, recipePath: path, isUsers: files !== undefined };
    const lock = await lockedPackages(place, lockPath, about);
    return { recipe, settings, sources, user, lock, warnings: [] };
  }
  const { lock, warnings } = await solveRecipe(paths, recipe, options, user);
  return { recipe, settings, sources, user, lock, warnings };
}

/** Of a user's recipe, that of a copy. */
async function lockBeside(
  path: string,
  files: RecipeFiles | undefined,
  arch: string | undefined,
): Promise<string | undefined> {
  const beside = lockPathOf(files?.nameOf(path) ?? path, arch);
  if (files === undefined) return existsSync(foundAt(beside)) ? beside : undefined;
  try {
    return await files.beside(path, basename(beside));
  } catch (error) {
    if (error instanceof KilnError && hasErrno(error.cause, 'ENOENT')) return undefined;
    throw error;
  }
}

export function lockPathOf(recipePath: string, arch?: string): string {
  return `${withArchitecture(recipePath.replace(/\.ya?ml$/, ''), arch)}.lock.json`;
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
