import { KilnError } from '../errors.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { Engine } from '../sandbox/open.ts';
import { type NamedImage, resolveImage } from './find.ts';
import type { OnImageProgress } from './progress.ts';
import { readReference } from './reference.ts';
import { type LeasedImage, leaseImage } from './store/images.ts';
import { findContents } from './store/manifest.ts';

export interface OpenImageOptions {
  /** Solve anew, with fresh metadata, and without the lock that lies beside the recipe. */
  readonly update?: boolean;
  /** Solve with the metadata that is here, and ask no server. */
  readonly offline?: boolean;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Takes the image that `name` means into use if there is one that is known to be current; nothing is
 * built. `cwd` is where relative paths and recipes' names are looked for.
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
  // Whoever makes it anew from its recipe writes down again what it is made of.
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
 * Takes the image that `name` means (see {@link resolveImage}) into use. What is known to be
 * current is used as it is; else it is solved and built.
 * @throws KilnError: everything that can be wrong with a recipe, repositories, packages, scriptlets.
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
  // Recipes, repositories and the solver are loaded only where something is to be made.
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}
