import { existsSync, statSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { shortHash } from '../host/process/short-hash.ts';
import { findCached, withFields, writeRecord } from '../host/state/checked-file.ts';
import { packageRoot, type StatePaths } from '../host/state/paths.ts';
import { suggest } from '../suggest.ts';
import { findImage, type ImagePlace, imagesNamed } from './store/images.ts';
import { type ImageManifest, namesOf, ownersOf } from './store/manifest.ts';

export type NamedImage =
  | { readonly kind: 'image'; readonly id: string }
  | { readonly kind: 'recipe'; readonly path: string }
  | { readonly kind: 'lock'; readonly path: string };

/** What `-r` takes for a name, not for a path, a recipe or a lock. */
export function isImageName(text: string): boolean {
  return /^[\p{L}\p{N}_][\p{L}\p{N}_.+@:~-]{0,199}$/u.test(text) && !/\.(?:ya?ml|json)$/.test(text);
}

function ownRecipes(): string {
  return join(packageRoot(), 'recipes/images');
}

export function isOwnRecipe(path: string): boolean {
  return dirname(path) === resolve(ownRecipes());
}

function recipeFolders(cwd: string): string[] {
  return [join(cwd, 'recipes', 'images'), cwd, ownRecipes()];
}

/**
 * The path of a recipe (`.yaml`) or a lock (`.json`), a recipe's name (in ./recipes/images, in this folder, or
 * kiln's own), or an image's id, its beginning, or its name.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS
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
  const near = suggest(name, known) ?? onlyNamedAfter(name, known);
  throw new KilnError('E_IMAGE_MISSING', `there is no image and no recipe called ${name}`, {
    hint:
      near === undefined
        ? `recipes: ${known.join(', ')}; \`kiln image ls\` lists images; \`kiln image pull docker://${name}\` takes one of a registry, where there is one`
        : `did you mean ${near}? \`kiln image ls\` lists images; \`kiln image pull docker://${name}\` takes one of a registry`,
  });
}

/** `debian-python` for `python`, and for `python:3.13`, as registries write it. */
function onlyNamedAfter(name: string, recipes: readonly string[]): string | undefined {
  const [wanted = ''] = name.toLowerCase().split(':');
  const found = recipes.filter((recipe) => recipe.split('-').includes(wanted));
  return found.length === 1 ? found[0] : undefined;
}

/**
 * `name` is an id, the beginning of one, or a name: then the newest image. To a user, a name that is the user’s
 * for one image and root’s for another means neither.
 * @throws KilnError E_IMAGE_AMBIGUOUS
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
    const isOwn = (image: ImageManifest) =>
      namesOf(ownersOf(paths, image).get(owner.uid)).includes(name);
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

export async function imageToRemove(place: ImagePlace, wanted: string): Promise<string> {
  const id = await findImage(place, wanted);
  if (id !== undefined) return id;
  const named = await imagesNamed(place, wanted);
  if (named.length > 1) {
    throw new KilnError('E_IMAGE_AMBIGUOUS', `${named.length} images are called ${wanted}`, {
      hint: `give an id: ${named.map((manifest) => manifest.id.slice(0, 12)).join(', ')}`,
    });
  }
  return named[0]?.id ?? wanted;
}

/* The image that a recipe or a lock last became: `kiln run` neither parses nor solves what is unchanged. */

const FORMAT = 2;

interface Fingerprint {
  readonly path: string;
  readonly stat: string | null;
}

interface Reference {
  readonly format: typeof FORMAT;
  /** Two recipes or locks may have the same name. */
  readonly path: string;
  readonly image: string;
  readonly files: readonly Fingerprint[];
}

export function currentReference(paths: StatePaths, path: string): Reference | undefined {
  const reference = findCached(referenceFile(paths, path), takeReference);
  if (reference?.format !== FORMAT || reference.path !== path) return undefined;
  const same = reference.files.every((file) => fingerprint(file.path).stat === file.stat);
  return same ? reference : undefined;
}

const takeReference = withFields<Reference>({ path: 'string', image: 'string', files: 'array' });

export async function writeReference(
  paths: StatePaths,
  path: string,
  image: string,
  files: readonly Fingerprint[],
): Promise<void> {
  const reference: Reference = { format: FORMAT, path, image, files };
  const file = referenceFile(paths, path);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  writeRecord(file, reference);
}

export function fingerprint(path: string): Fingerprint {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return { path, stat: stat ? `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}` : null };
}

function referenceFile(paths: StatePaths, path: string): string {
  return join(paths.store, 'references', `${shortHash(path)}.json`);
}
