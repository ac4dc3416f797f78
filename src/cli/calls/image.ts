import type { Image } from '../../api/io-kiln.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { resolveImage } from '../../image/find.ts';
import { openImage } from '../../image/open.ts';
import { buildNamed } from '../../image/plan.ts';
import { listImages, removeImage } from '../../image/store/images.ts';
import { type ImageManifest, readManifest } from '../../image/store/manifest.ts';
import { imageToRemove, lockRecipe } from '../images/image.ts';
import type { Answer } from './context.ts';
import { hostPath } from './options.ts';

export const answerListImages: Answer<'ListImages'> = async (_, context) => {
  await using engine = context.openEngine();
  const images = await listImages(engine.paths);
  return {
    images: images.map(({ manifest, lastUse, inUse }) => imageOf(manifest, lastUse, inUse)),
  };
};

export const answerBuildImage: Answer<'BuildImage'> = async (
  { image: name, update = false },
  context,
) => {
  const { onProgress, call } = context;
  await using engine = context.openEngine();
  const wanted = { update, onProgress, signal: call.signal };
  const named = await resolveImage(engine, name, '/');
  const started = Date.now();
  await using image =
    named.kind === 'image'
      ? await openImage(engine, name, wanted)
      : await buildNamed(engine, named, wanted);
  const { manifest } = image;
  if (manifest.created >= started) context.storeChanged();
  return { result: imageOf(manifest, Date.now(), true) };
};

export const answerLockImage: Answer<'LockImage'> = async ({ recipe, output }, context) => {
  const { onProgress } = context;
  await using engine = context.openEngine();
  const { file, warnings } = await lockRecipe(engine, recipe, {
    output: hostPath('output', output),
    onProgress,
  });
  for (const warning of warnings) context.warn(warning);
  return { result: file };
};

export const answerRemoveImage: Answer<'RemoveImage'> = async ({ image }, context) => {
  await using engine = context.openEngine();
  const id = await imageToRemove(engine, image);
  const freed = readManifest(engine.paths, id)?.ownBytes ?? 0;
  const tree = await removeImage(engine.paths, id);
  if (tree !== undefined) await removeTree(tree);
  return { id, freed };
};

function imageOf(manifest: ImageManifest, lastUse: number, inUse: boolean): Image {
  const { id, name, description, arch, packageCount, bytes, ownBytes, created, warnings } =
    manifest;
  return {
    ...{ id, name, description, arch, packages: packageCount, size: bytes, ownSize: ownBytes },
    ...{ created: Math.round(created), lastUse: Math.round(lastUse), inUse, warnings },
  };
}
