/** Reads the recipe of an image, and what it puts into the image. */
import { join } from 'node:path';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { isWithin, readUserFile } from '../host/files/user-file.ts';
import { hostArchitecture, withArchitecture } from '../host/process/architecture.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { RecipeFiles } from '../recipe/folder.ts';
import { type LoadedImageRecipe, loadImageRecipe } from '../recipe/load-image-recipe.ts';
import { findRecipe, isTrusted } from '../recipe/named.ts';
import type { ImageSettings } from './build.ts';
import type { FileToWrite } from './tree/customize.ts';

const SOURCE_LIMIT_MB = 64;

export interface RecipePlace {
  readonly paths: StatePaths;
  readonly owner: Engine['owner'];
  allowHost(): boolean;
  holdName(path: string): Promise<void>;
}

/** How a user's recipe, which is a copy, has what it names. */
export function usersFiles(
  { owner }: { readonly owner: Engine['owner'] },
  path: string,
): RecipeFiles | undefined {
  return owner?.files?.nameOf(path) === undefined ? undefined : owner.files;
}

/** A user's recipe is read once for a job: all builds of a chain have one image. */
const ownRecipes = new WeakMap<RecipeFiles, Map<string, LoadedImageRecipe>>();

/**
 * @param arch the one that the caller asks for
 * @throws what loading throws; KilnError E_IMAGE_MISSING for one with a login that is not for this user
 */
export async function readRecipe(
  place: RecipePlace,
  path: string,
  arch?: string,
): Promise<LoadedImageRecipe> {
  const { paths } = place;
  const isForeign = arch !== undefined && arch !== hostArchitecture();
  const variables = {
    KILN_STATE: paths.root,
    // scripts/fixtures --arch has a folder for each other architecture.
    KILN_FIXTURES: join(paths.fixtures, isForeign ? arch : ''),
  };
  const { owner } = place;
  const findByName = (name: string, extending: string) => {
    // What root's own recipes extend is root's to say.
    const isHidden = owner?.seesOfRoot({ name, private: false }) === false;
    if (isHidden && !isTrusted(paths, extending)) return undefined;
    return findRecipe(paths, name, extending);
  };
  const files = usersFiles(place, path);
  const isKnown = (file: string) => files === undefined && isTrusted(paths, file);
  const read = async () => {
    const trusts = (file: string) => place.allowHost() || isKnown(file);
    const recipe = await loadImageRecipe(path, {
      ...{
        variables,
        arch: hostArchitecture(),
        wanted: arch,
        findByName,
        files,
        isTrusted: trusts,
      },
      // Root's own recipes mean what they name, by its name.
      holdName: isKnown(path) ? undefined : place.holdName,
    });
    // Root's own login is for those whom root lets have it; of mock's configurations, root has said who has them.
    const logins = isWithin(path, paths.mockRecipes) ? [] : recipe.loggingIn;
    const hidden = logins.find((name) => owner?.seesOfRoot({ name, private: true }) === false);
    if (hidden === undefined) return recipe;
    throw new KilnError('E_IMAGE_MISSING', `there is no image and no recipe called ${hidden}`, {
      hint: '`kiln image ls` lists the images that you may use',
    });
  };
  if (files === undefined) return await read();
  const recipes = ownRecipes.get(files) ?? new Map<string, LoadedImageRecipe>();
  ownRecipes.set(files, recipes);
  const key = withArchitecture(path, arch);
  const recipe = recipes.get(key) ?? (await read());
  recipes.set(key, recipe);
  return recipe;
}

export async function settingsOf(recipe: LoadedImageRecipe): Promise<ImageSettings> {
  const { name, description, folders, users, environment, user, workdir, scriptlets, kernel } =
    recipe;
  const files = await Promise.all(recipe.files.map(readSource));
  return {
    ...{ name, description, users, environment, user, workdir, scriptlets, files },
    ...(folders.length > 0 ? { folders } : {}),
    ...(kernel ? { kernel } : {}),
  };
}

async function readSource(file: LoadedImageRecipe['files'][number]): Promise<FileToWrite> {
  const { path, mode, owner, group } = file;
  if (file.source === undefined) {
    return { path, mode, owner, group, content: Buffer.from(file.content ?? '') };
  }
  try {
    const content = readUserFile(file.source, SOURCE_LIMIT_MB * 1024 * 1024, 'file', file.below);
    return { path, mode, owner, group, content };
  } catch (cause) {
    throw new KilnError('E_RECIPE_READ', `cannot read ${file.source}, the source of ${path}`, {
      cause,
      hint: `it must be a regular file of at most ${SOURCE_LIMIT_MB} MB; put larger files into a package`,
    });
  }
}
