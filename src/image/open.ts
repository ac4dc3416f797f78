import { KilnError } from '../errors.ts';
import type { Engine } from '../sandbox/open.ts';
import { type NamedImage, resolveImage } from './find.ts';
import type { OnImageProgress } from './progress.ts';
import { readReference } from './reference.ts';
import { type ImagePlace, type LeasedImage, leaseImage } from './store/images.ts';
import { findContents } from './store/manifest.ts';
import { nameFor } from './store/owners.ts';

export interface OpenImageOptions {
  /** Solve again with fresh metadata, ignoring the lock beside the recipe. */
  readonly update?: boolean;
  /** Solve with the metadata in the cache, without asking a server. */
  readonly offline?: boolean;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Leases the image that `name` means, if there is one that is known to be current; builds nothing. Relative
 * paths and recipes' names start at `cwd`.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS
 */
export async function openExistingImage(
  place: ImagePlace,
  name: string,
  cwd: string,
): Promise<LeasedImage | undefined> {
  return await leaseExisting(place, await resolveImage(place, name, cwd));
}

async function leaseExisting(
  { paths, owner }: ImagePlace,
  named: NamedImage,
): Promise<LeasedImage | undefined> {
  const id = named.kind === 'image' ? named.id : readReference(paths, named.path);
  const leased = id === undefined ? undefined : await leaseImage(paths, id);
  if (leased !== undefined && named.kind === 'image' && owner !== undefined) {
    const name = nameFor(paths, leased.manifest, owner) ?? '';
    return { ...leased, manifest: { ...leased.manifest, name } };
  }
  if (leased === undefined || named.kind === 'image') return leased;
  // Making the image again from its recipe writes the lost contents.json.
  if (findContents(paths, leased.manifest.id).value !== undefined) return leased;
  await leased[Symbol.asyncDispose]();
  return undefined;
}

function unusable(id: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `image ${id} cannot be used any more`, {
    hint: 'build it again from its recipe',
  });
}

/**
 * Leases the image that `name` means (see {@link resolveImage}). An image that is known to be current is used;
 * otherwise it is solved and built. @throws KilnError for everything that can be wrong with a recipe,
 * repositories, packages, scriptlets.
 */
export async function openImage(
  engine: Engine,
  name: string,
  options: OpenImageOptions = {},
): Promise<LeasedImage> {
  const named = await resolveImage(engine, name, engine.cwd());
  const existing = options.update === true ? undefined : await leaseExisting(engine, named);
  if (existing !== undefined) return existing;
  if (named.kind === 'image') throw unusable(named.id);
  // Recipes, repositories and the solver are loaded only if an image must be made.
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}
