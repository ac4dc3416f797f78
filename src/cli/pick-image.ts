import { KilnError } from '../errors.ts';
import { findImage, listImages } from '../image/store/images.ts';
import type { StatePaths } from '../state/paths.ts';

/**
 * The id of the image that `wanted` (a recipe's name or path, a lock, an id or its beginning) names;
 * what is not there yet is built. Without `wanted`, the only image there is.
 * Throws E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS, and whatever a build throws.
 */
export async function pickImage(paths: StatePaths, wanted: string | undefined): Promise<string> {
  if (wanted === undefined) {
    const images = await listImages(paths);
    const only = images[0];
    if (only !== undefined && images.length === 1) return only.manifest.id;
    throw new KilnError('E_IMAGE_MISSING', `say which image: there are ${images.length}`, {
      hint: 'give one with -r or in KILN_IMAGE; `kiln image ls` lists them',
    });
  }
  const found = await findImage(paths, wanted);
  if (found !== undefined) return found;
  throw new KilnError('E_IMAGE_MISSING', `there is no image ${wanted}`, {
    hint: '`kiln image ls` lists them; `kiln image build RECIPE` makes one',
  });
}
