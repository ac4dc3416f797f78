import type { OwnEngine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { findRecipe, findStoredImage } from '../../image/find.ts';
import { type OpenImageOptions, openImage } from '../../image/open.ts';
import { type LeasedImage, leaseImage, visibleImages } from '../../image/store/images.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { Caller } from '../caller/caller.ts';
import { imageProgress } from './image-progress.ts';

interface PickOptions extends Pick<OpenImageOptions, 'onProgress' | 'signal'> {
  storeChanged(): void;
}

/** {@link pickImage} for a person, who sees the progress. */
export async function pickImageFor(
  caller: Caller,
  engine: Engine,
  wanted: string | undefined,
  signal?: AbortSignal,
): Promise<LeasedImage> {
  using progress = imageProgress(caller.stderr);
  const storeChanged = () => caller.storeChanged();
  return await pickImage(engine, wanted, { onProgress: progress.report, signal, storeChanged });
}

/**
 * Leases the image that `wanted` (a recipe's name or path, a lock, an id or its beginning) names, and builds it
 * if it is missing. Without `wanted`, the only image. Throws E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS, and whatever a
 * build throws.
 */
export async function pickImage(
  engine: Engine,
  wanted: string | undefined,
  { storeChanged, ...options }: PickOptions,
): Promise<LeasedImage> {
  if (wanted !== undefined) {
    const started = Date.now();
    const image = await openImage(engine, wanted, options);
    if (image.manifest.created >= started) storeChanged();
    return image;
  }
  const images = await visibleImages(engine);
  const only = images[0];
  const leased =
    only !== undefined && images.length === 1
      ? await leaseImage(engine.paths, only.manifest.id)
      : undefined;
  if (leased !== undefined) return leased;
  throw new KilnError('E_IMAGE_MISSING', `no image is named, and there are ${images.length}`, {
    hint: 'give one with -r or in KILN_IMAGE; `kiln image ls` lists them',
  });
}

/** Says how to name an image to somebody who wrote `kiln run IMAGE COMMAND`, as podman has it. */
export async function imageFirst(
  error: unknown,
  { paths, owner, cwd }: Pick<OwnEngine, 'paths' | 'owner' | 'cwd'>,
  [image = '', ...command]: readonly string[],
): Promise<unknown> {
  if (!(error instanceof KilnError) || error.code !== 'E_IMAGE_MISSING') return error;
  const known =
    findRecipe(image, cwd()) ??
    (await findStoredImage({ paths, owner }, image).catch(() => undefined));
  if (known === undefined) return error;
  return new KilnError(
    'E_IMAGE_MISSING',
    `no image is named, and ${image} is taken for the command`,
    {
      hint: `kiln run -r ${image} -- ${command.length === 0 ? 'COMMAND' : command.join(' ')}`,
      cause: error,
    },
  );
}
