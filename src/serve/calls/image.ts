import type { Image } from '../../api/io-kiln.ts';
import { removeNamed } from '../../cli/images/image.ts';
import { lockRecipe } from '../../image/lock-recipe.ts';
import { noting, renewImage } from '../../image/open.ts';
import { visibleImages } from '../../image/store/images.ts';
import { type ImageManifest, namesFor } from '../../image/store/manifest.ts';
import { hostImage, hostPath } from '../../options/places.ts';
import type { Answer } from './context.ts';
import { admittedImage } from './options.ts';

export const answerListImages: Answer<'ListImages'> = async (_, context) => {
  await using engine = context.openEngine();
  const images = await visibleImages(engine);
  return {
    images: images.map(({ manifest, lastUse, inUse }) => ({
      ...imageOf(manifest, lastUse, inUse),
      names: namesFor(engine.paths, manifest, engine.owner),
    })),
  };
};

export const answerBuildImage: Answer<'BuildImage'> = async (
  { image: name, update = false, allowHost, arch },
  context,
) => {
  const { onProgress, call } = context;
  await using engine = context.openEngine({ allowHost });
  const wanted = { update, arch, onProgress, signal: call.signal };
  const admitted = await admittedImage(name, context);
  const renewed = () => renewImage(engine, admitted, wanted);
  await using image = await noting(context.storeChanged, renewed);
  return { result: imageOf(image.manifest, Date.now(), true) };
};

export const answerLockImage: Answer<'LockImage'> = async (
  { recipe, output, allowHost, arch },
  context,
) => {
  const { onProgress, caller } = context;
  await using engine = context.openEngine({ allowHost });
  const own = await admittedImage(recipe, context, 'recipe');
  const place = hostPath('output', output);
  const open = (beside: string) => caller.paths.resultAt(place ?? beside);
  const { file, warnings } = await lockRecipe(engine, own, open, onProgress, arch);
  for (const warning of warnings) context.warn(warning);
  return { result: file };
};

export const answerRemoveImage: Answer<'RemoveImage'> = async ({ image }, context) => {
  await using engine = context.openEngine();
  let id = image;
  const freed = await removeNamed(engine, hostImage('image', image), (removed) => {
    id = removed;
  });
  return { id, freed };
};

export function imageOf(manifest: ImageManifest, lastUse: number, inUse: boolean): Image {
  const { id, name, description, arch, packageCount, bytes, ownBytes, created, warnings } =
    manifest;
  return {
    ...{ id, name, description, arch, packages: packageCount, size: bytes, ownSize: ownBytes },
    ...{ created: Math.round(created), lastUse: Math.round(lastUse), inUse, warnings },
  };
}
