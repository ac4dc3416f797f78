import { KilnError } from '../errors.ts';
import type { Engine } from '../sandbox/open.ts';
import { resolveImage } from './find.ts';
import type { OnImageProgress } from './progress.ts';
import { readReference } from './reference.ts';
import { type LeasedImage, leaseImage } from './store/images.ts';

export interface OpenImageOptions {
  /** Solve anew, with fresh metadata, and without the lock that lies beside the recipe. */
  readonly update?: boolean;
  /** Solve with the metadata that is here, and ask no server. */
  readonly offline?: boolean;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
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
  const named = await resolveImage(engine.paths, name);
  if (named.kind === 'image') {
    const leased = await leaseImage(engine.paths, named.id);
    if (leased !== undefined) return leased;
    throw new KilnError('E_IMAGE_MISSING', `image ${named.id} cannot be used any more`, {
      hint: 'build it again from its recipe',
    });
  }
  if (options.update !== true) {
    const current = readReference(engine.paths, named.path);
    const leased = current === undefined ? undefined : await leaseImage(engine.paths, current);
    if (leased !== undefined) return leased;
  }
  // Recipes, repositories and the solver are loaded only where something is to be made.
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}
