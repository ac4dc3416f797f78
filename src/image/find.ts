import { existsSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { foundAt } from '../host/files/held.ts';
import { splitArchitecture } from '../host/process/architecture.ts';
import { findRecipe, HOST_IMAGE, isCallers, recipeNames } from '../recipe/named.ts';
import { shellWord } from '../shell-words.ts';
import { suggest } from '../suggest.ts';
import { lastHost, requireHost } from './host.ts';
import { lastReference, sourceKey } from './reference.ts';
import { findImage, type ImagePlace, imagesNamed } from './store/images.ts';
import {
  type ImageManifest,
  isImageId,
  nameFor,
  namesOf,
  ownersOf,
  readManifest,
} from './store/manifest.ts';

export type NamedImage =
  | { readonly kind: 'image'; readonly id: string }
  | { readonly kind: 'host' }
  | NamedRecipe
  | { readonly kind: 'lock'; readonly path: string };

export interface NamedRecipe {
  readonly kind: 'recipe';
  readonly path: string;
  /** Where the name or `--arch` says one. */
  readonly arch?: string;
}

export interface NamingPlace extends ImagePlace {
  holdName(path: string): Promise<void>;
}

/** What `-r` takes for a name, not for a path, a recipe or a lock. */
export function isImageName(text: string): boolean {
  return /^[\p{L}\p{N}_][\p{L}\p{N}_.+@:~-]{0,199}$/u.test(text) && !/\.(?:ya?ml|json)$/.test(text);
}

/**
 * A word with a slash, or that ends in .yaml or .json, is the path of a recipe or a lock. Any other is `host`, an image's id,
 * the name of a recipe of root's or of kiln's own, the beginning of an id, or an image's name: no file lies so that it
 * changes what a name means.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS; E_FORBIDDEN; E_RECIPE_READ as {@link findRecipe}
 */
export async function resolveImage(
  place: NamingPlace,
  name: string,
  cwd: string,
): Promise<NamedImage> {
  if (name === '') {
    throw new KilnError('E_IMAGE_MISSING', 'there is no image ""', {
      hint: '`kiln image ls` lists images; is a variable of a script empty?',
    });
  }
  const marked = splitArchitecture(name);
  const path = resolve(cwd, marked.name);
  const { owner, paths } = place;
  const isPath = /\.(?:ya?ml|json)$/.test(marked.name);
  if (isPath && owner === undefined && isCallers(paths, path)) await place.holdName(dirname(path));
  if (/\.ya?ml$/.test(marked.name))
    return recipeFor({ kind: 'recipe', path: existing(path, marked.name) }, marked.arch);
  if (name.endsWith('.json')) return { kind: 'lock', path: existing(path, name) };
  if (name.includes('/')) {
    throw new KilnError(
      'E_IMAGE_MISSING',
      `there is no image ${name}: it is neither a recipe nor a lock`,
      {
        hint:
          ofRegistry(name) ?? 'recipes end in .yaml, locks in .json; `kiln image ls` lists images',
      },
    );
  }
  if (name === HOST_IMAGE) {
    requireHost(owner);
    return { kind: 'host' };
  }
  const isThere = (recipe: string) =>
    !isImageId(recipe) && (owner?.seesOfRoot({ name: recipe, private: false }) ?? true);
  const recipe = isThere(marked.name) ? findRecipe(paths, marked.name) : undefined;
  if (recipe !== undefined) return recipeFor({ kind: 'recipe', path: recipe }, marked.arch);
  const id = await findStoredImage(place, name);
  if (id !== undefined) return { kind: 'image', id };
  const known = (await recipeNames(paths)).filter(isThere);
  const near = suggest(name, known) ?? onlyNamedAfter(name, known);
  throw new KilnError('E_IMAGE_MISSING', `there is no image and no recipe called ${name}`, {
    hint:
      near === undefined
        ? `recipes: ${known.join(', ')}; \`kiln image ls\` lists images; \`kiln image pull docker://${name}\` takes one of a registry, where there is one`
        : `did you mean ${near}? \`kiln image ls\` lists images; \`kiln image pull docker://${name}\` takes one of a registry`,
  });
}

/** What to write for a reference of a registry, as podman takes it; undefined for a path. */
function ofRegistry(name: string): string | undefined {
  const [, reference = ''] = /^(?:docker:\/\/)?([a-z0-9][^\s]*)$/.exec(name) ?? [];
  const [short = ''] = (reference.split('/').at(-1) ?? '').split(/[:@]/);
  if (short === '') return undefined;
  return `\`kiln image pull docker://${reference}\` takes an image of a registry, then it is \`-r ${short}\`; recipes end in .yaml, locks in .json; \`kiln image ls\` lists images`;
}

export function recipeFor(named: NamedRecipe, arch: string | undefined): NamedRecipe {
  return arch === undefined ? named : { ...named, arch };
}

/** `debian-python` for `python`, and for `python:3.13`, as registries write it. */
function onlyNamedAfter(name: string, recipes: readonly string[]): string | undefined {
  const [wanted = ''] = name.toLowerCase().split(':');
  const found = recipes.filter((recipe) => recipe.split('-').includes(wanted));
  return found.length === 1 ? found[0] : undefined;
}

/** What an image of a file is called, whatever the file says. */
export function imageNameOf(path: string): string {
  const name = basename(path).replace(/(?:\.lock)?\.json$/, '');
  return isImageName(name) && !isImageId(name) ? name : 'imported';
}

/**
 * The image that a word means where none is made: of a recipe or a lock, the one that it last became. That is what
 * `run -r` takes until the recipe changes.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS; E_RECIPE_READ as {@link findRecipe}
 */
export async function meantImage(place: NamingPlace, word: string, cwd: string): Promise<string> {
  const named = await resolveImage(place, word, cwd);
  if (named.kind === 'image') return named.id;
  const { paths, owner } = place;
  const path = named.kind === 'host' ? '/usr' : named.path;
  const id =
    named.kind === 'host' ? lastHost(paths) : lastReference(paths, sourceKey(named))?.image;
  if (id !== undefined && readManifest(paths, id) !== undefined) {
    if (owner === undefined || nameFor(paths, { id }, owner) !== undefined) return id;
  }
  throw new KilnError('E_IMAGE_MISSING', `there is no image of ${path}`, {
    hint: `\`kiln image build ${shellWord(word)}\` makes one; \`kiln image ls\` lists the ids of others`,
  });
}

/**
 * `name` is an id, the beginning of one, or a name. To a user, a name that is the user’s for one image and root’s for
 * another means neither.
 * @throws KilnError E_IMAGE_AMBIGUOUS
 */
export async function findStoredImage(
  place: ImagePlace,
  name: string,
): Promise<string | undefined> {
  const found = await findImage(place, name);
  const images = await imagesNamed(place, name);
  const other = images.find(({ id }) => id !== found);
  if (found !== undefined && other !== undefined) {
    throw new KilnError(
      'E_IMAGE_AMBIGUOUS',
      `one image begins with ${name}, and one has that name`,
      {
        hint: `give more digits: ${found.slice(0, name.length + 6)}, ${other.id.slice(0, 12)}`,
      },
    );
  }
  if (found !== undefined) return found;
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

function existing(path: string, name: string): string {
  if (existsSync(foundAt(path))) return path;
  throw new KilnError('E_IMAGE_MISSING', `there is no file ${name}`, {
    hint: 'give the path of a recipe (.yaml) or a lock (.json), or a name; `kiln image ls` lists images',
  });
}
