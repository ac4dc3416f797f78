import { existsSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KilnError } from '../errors.ts';
import { suggest } from '../recipe/problem.ts';
import { findImage, type ImagePlace, imagesNamed } from './store/images.ts';
import type { ImageManifest } from './store/manifest.ts';
import { ownersOf } from './store/owners.ts';

/** The meaning of IMAGE on a command line. */
export type NamedImage =
  | { readonly kind: 'image'; readonly id: string }
  | { readonly kind: 'recipe'; readonly path: string }
  | { readonly kind: 'lock'; readonly path: string };

/** The folder of recipes that come with kiln. */
function ownRecipes(): string {
  const here = import.meta.url;
  return fileURLToPath(
    new URL(here.endsWith('.ts') ? '../../recipes/images' : '../recipes/images', here),
  );
}

/** Whether an image recipe comes with kiln. */
export function isOwnRecipe(path: string): boolean {
  return dirname(path) === resolve(ownRecipes());
}

/** The folders where recipes are found by name, nearest first. */
function recipeFolders(cwd: string): string[] {
  return [join(cwd, 'recipes', 'images'), cwd, ownRecipes()];
}

/**
 * Finds what IMAGE on a command line means: the path of a recipe (`.yaml`) or a lock (`.json`), a recipe's name
 * (in ./recipes/images, in this folder, or kiln's own), or an image's id, its beginning, or its name.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS.
 */
export async function resolveImage(
  place: ImagePlace,
  name: string,
  cwd: string,
): Promise<NamedImage> {
  const path = resolve(cwd, name);
  if (/\.ya?ml$/.test(name)) return { kind: 'recipe', path: existing(path, name) };
  if (name.endsWith('.json')) return { kind: 'lock', path: existing(path, name) };
  if (name.includes('/')) {
    throw new KilnError('E_IMAGE_MISSING', `${name} is neither a recipe nor a lock`, {
      hint: 'recipes end in .yaml, locks in .json',
    });
  }
  const { owner } = place;
  const isThere = (recipe: string) =>
    owner === undefined || owner.seesOfRoot({ name: recipe, private: false });
  const recipe = isThere(name) ? findRecipe(name, cwd) : undefined;
  if (recipe !== undefined) return { kind: 'recipe', path: recipe };
  const id = await findStoredImage(place, name);
  if (id !== undefined) return { kind: 'image', id };
  const known = (await recipeNames(cwd)).filter(isThere);
  const near = suggest(name, known);
  throw new KilnError('E_IMAGE_MISSING', `there is no image and no recipe called ${name}`, {
    hint:
      near === undefined
        ? `recipes: ${known.join(', ')}; \`kiln image ls\` lists images`
        : `did you mean ${near}? \`kiln image ls\` lists images`,
  });
}

/**
 * The id of a stored image by its id, the beginning of its id, or its name (then the newest image of that
 * name), if there is one.
 * To a user, a name that is the user’s for one image and root’s for another means neither.
 * @throws KilnError E_IMAGE_AMBIGUOUS.
 */
export async function findStoredImage(
  place: ImagePlace,
  name: string,
): Promise<string | undefined> {
  const found = await findImage(place, name);
  if (found !== undefined) return found;
  const images = await imagesNamed(place, name);
  const { paths, owner } = place;
  if (owner !== undefined) {
    const isOwn = (image: ImageManifest) => ownersOf(paths, image).has(owner.uid);
    const [own, roots] = [images.find(isOwn), images.find((image) => !isOwn(image))];
    if (own !== undefined && roots !== undefined) {
      throw new KilnError('E_IMAGE_AMBIGUOUS', `you and root each have an image called ${name}`, {
        hint: `give an id: yours is ${own.id.slice(0, 12)}, root’s ${roots.id.slice(0, 12)}`,
      });
    }
  }
  return images[0]?.id;
}

export function findRecipe(name: string, cwd: string): string | undefined {
  if (basename(name) !== name) return undefined;
  return recipeFolders(cwd)
    .map((folder) => join(folder, `${name}.yaml`))
    .find((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
}

/** Names of the recipes that are found by name. */
export async function recipeNames(cwd: string): Promise<string[]> {
  const lists = await Promise.all(
    recipeFolders(cwd)
      .filter((folder) => folder !== cwd)
      .map((folder) => readdir(folder).catch(() => [])),
  );
  const names = lists.flat().filter((name) => name.endsWith('.yaml'));
  return [...new Set(names.map((name) => name.replace(/\.yaml$/, '')))].sort();
}

function existing(path: string, name: string): string {
  if (existsSync(path)) return path;
  throw new KilnError('E_IMAGE_MISSING', `there is no file ${name}`, {
    hint: 'give the path of a recipe (.yaml) or a lock (.json), or a name; `kiln image ls` lists images',
  });
}
