import { KilnError } from '../errors.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { Engine } from '../sandbox/open.ts';
import { type NamedImage, resolveImage } from './find.ts';
import type { OnImageProgress } from './progress.ts';
import { readReference } from './reference.ts';
import { type LeasedImage, leaseImage } from './store/images.ts';
import { findContents } from './store/manifest.ts';

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
  paths: StatePaths,
  name: string,
  cwd: string,
): Promise<LeasedImage | undefined> {
  return await leaseExisting(paths, await resolveImage(paths, name, cwd));
}

async function leaseExisting(
  paths: StatePaths,
  named: NamedImage,
): Promise<LeasedImage | undefined> {
  const id = named.kind === 'image' ? named.id : readReference(paths, named.path);
  const leased = id === undefined ? undefined : await leaseImage(paths, id);
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
  const named = await resolveImage(engine.paths, name, engine.cwd());
  const existing = options.update === true ? undefined : await leaseExisting(engine.paths, named);
  if (existing !== undefined) return existing;
  if (named.kind === 'image') throw unusable(named.id);
  // Recipes, repositories and the solver are loaded only if an image must be made.
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}
