import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { ARCHITECTURES } from '../host/process/architecture.ts';
import { DamagedFileError } from '../host/state/damage.ts';
import { HOST_IMAGE } from '../recipe/named.ts';
import { type NamedImage, type NamingPlace, recipeFor, resolveImage } from './find.ts';
import { currentHost, makeHost, seesHost } from './host.ts';
import type { OpenImageOptions } from './plan.ts';
import { currentReference, sourceKey } from './reference.ts';
import { type LeasedImage, leaseImage } from './store/images.ts';
import { findContents, imageDirectory, nameFor } from './store/manifest.ts';
import { knownDamage } from './store/mark.ts';

/**
 * Undefined unless there is one that is known to be current; builds nothing. Relative paths start at `cwd`.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS
 */
export async function openExistingImage(
  place: NamingPlace,
  name: string | undefined,
  cwd: string,
): Promise<LeasedImage | undefined> {
  return await leaseExisting(place, await resolveImage(place, name ?? usualImage(place), cwd));
}

/** What commands run in where nobody names an image. @throws KilnError E_IMAGE_MISSING */
function usualImage({ owner }: NamingPlace): string {
  if (seesHost(owner)) return HOST_IMAGE;
  throw new KilnError('E_IMAGE_MISSING', 'give an image with -r', {
    hint: 'or in KILN_IMAGE, or in kiln.yaml: `-r debian-build` comes with kiln, and is made when first used; `kiln image ls` lists those that are there',
  });
}

async function leaseExisting(
  place: NamingPlace,
  named: NamedImage,
): Promise<LeasedImage | undefined> {
  const { paths, owner } = place;
  const id = await idOf(place, named);
  const leased = id === undefined ? undefined : await leaseImage(paths, id);
  if (leased === undefined || named.kind === 'host') return leased;
  if (named.kind === 'image' && owner === undefined) return leased;
  const name = owner && nameFor(paths, leased.manifest, owner);
  if (named.kind === 'image')
    return { ...leased, manifest: { ...leased.manifest, name: name ?? '' } };
  // Making it again from its recipe refuses a user who may not see it, and writes a lost contents.json.
  const isSeen = owner === undefined || name !== undefined;
  if (isSeen && findContents(paths, leased.manifest.id).value !== undefined) return leased;
  await leased[Symbol.asyncDispose]();
  return undefined;
}

async function idOf(place: NamingPlace, named: NamedImage): Promise<string | undefined> {
  if (named.kind === 'image') return named.id;
  if (named.kind === 'host') return currentHost(place.paths);
  return (await currentReference(place, sourceKey(named)))?.image;
}

/** Leases an image by what it is known by, and calls `storeChanged` where it was made for that. */
export async function noting(
  storeChanged: () => void,
  lease: () => Promise<LeasedImage>,
): Promise<LeasedImage> {
  const started = Date.now();
  const image = await lease();
  if (image.manifest.created >= started) storeChanged();
  return image;
}

/**
 * Solves and builds the image (see {@link resolveImage}) unless there is one that is known to be current.
 * @throws KilnError for everything that can be wrong with a recipe, repositories, packages, scriptlets
 */
export async function openImage(
  engine: Engine,
  name: string,
  options: OpenImageOptions = {},
): Promise<LeasedImage> {
  const named = await resolveImage(engine, name, engine.cwd());
  const existing = options.update === true ? undefined : await leaseExisting(engine, named);
  if (existing !== undefined) return existing;
  if (named.kind === 'host') return await makeHost(engine.paths);
  if (named.kind === 'image') {
    if (options.update === true) {
      throw new KilnError('E_ARGUMENT', `${name} means an image itself, which does not change`, {
        hint: 'name the recipe that it was made of, or an image that was made since: `kiln image ls`',
      });
    }
    const damage = knownDamage(imageDirectory(engine.paths, named.id));
    throw new KilnError('E_IMAGE_MISSING', `image ${named.id} cannot be used any more`, {
      cause: damage && new DamagedFileError(damage.path, damage.why),
      hint: 'build it again from its recipe, or import it again',
    });
  }
  // Recipes, repositories and the solver are loaded only if an image must be made.
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}

/** @throws KilnError E_ARGUMENT for what has its architecture already */
export function forArchitecture(
  name: string,
  named: NamedImage,
  arch: string | undefined,
): NamedImage {
  if (arch === undefined) return named;
  if (!ARCHITECTURES.includes(arch)) {
    throw new KilnError('E_ARGUMENT', `kiln knows no architecture ${arch}`, {
      hint: `it knows ${ARCHITECTURES.join(', ')}`,
    });
  }
  if (named.kind === 'recipe' && (named.arch ?? arch) === arch) return recipeFor(named, arch);
  throw new KilnError('E_ARGUMENT', `${name} cannot be made for ${arch}`, {
    hint: '--arch is for recipes, and for names of them without @ARCH',
  });
}

/** Leases what a recipe or lock comes to now, even where an image is known; an image's own id is that image. */
export async function renewImage(
  engine: Engine,
  name: string,
  { arch, ...options }: OpenImageOptions & { readonly arch?: string | undefined },
): Promise<LeasedImage> {
  const named = forArchitecture(name, await resolveImage(engine, name, engine.cwd()), arch);
  if (named.kind === 'image') return await openImage(engine, name, options);
  if (named.kind === 'host') return await makeHost(engine.paths);
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}

/**
 * Leases the image that `wanted` (a recipe's name or path, a lock, an id or its beginning) names, and builds it
 * if it is missing. Without `wanted`, this host's own /usr.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS, and whatever a build throws
 */
export async function pickImage(
  engine: Engine,
  wanted: string | undefined,
  { storeChanged, ...options }: OpenImageOptions & { storeChanged(): void },
): Promise<LeasedImage> {
  const name = wanted ?? usualImage(engine);
  return await noting(storeChanged, () => openImage(engine, name, options));
}
