import { join } from 'node:path';
import { KILN_VERSION } from '../../../host/state/paths.ts';
import { SmallCache } from '../../../host/state/small-cache.ts';
import type { ImageSettings } from '../../../image/build.ts';
import { type NamedImage, resolveImage } from '../../../image/find.ts';
import type { ImageLock } from '../../../image/lock.ts';
import { openImage } from '../../../image/open.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import { currentReference } from '../../../image/reference.ts';
import { type LeasedImage, leaseImage } from '../../../image/store/images.ts';
import { readContents } from '../../../image/store/manifest.ts';
import type { Repository } from '../../../packages/repository/configuration.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';
import type { ImageModules } from '../../../recipe/load-image-recipe.ts';
import { digestOf } from '../../../result/digest.ts';
import type { Engine } from '../../../sandbox/open.ts';
import { forbidden } from '../../../users/user.ts';
import { assertCached } from './offline.ts';

/** What an image was made from: what is needed to put more packages on top of it. */
export interface BaseDescription {
  /** Empty for an image that is known by its id only. */
  readonly repositories: readonly Repository[];
  /** What was asked for to make it: names, groups. */
  readonly install: readonly string[];
  readonly exclude: readonly string[];
  readonly modules?: ImageModules | undefined;
  readonly recommends: boolean;
  readonly settings: ImageSettings;
  /** The image as a lock; undefined where it is not known which repositories it came from. */
  readonly lock?: ImageLock | undefined;
}

/** The image that a build starts from. */
export interface BuildBase extends BaseDescription, AsyncDisposable {
  readonly image: LeasedImage;
  readonly packages: readonly LockedPackage[];
}

/** How to come by it. */
export interface OpenBaseOptions {
  readonly update: boolean;
  readonly offline?: boolean | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Descriptions that are kept, of some 100 KB each. */
const KEPT = 100;

/** Of a description that is kept. */
const FORMAT = 2;

/** Bytes of files in a description that is kept. */
const MAX_FILES = 2 ** 20;

/**
 * Takes the base image of a build into use; it is made if need be.
 * @throws what {@link openImage} throws.
 */
export async function openBase(
  engine: Engine,
  name: string,
  options: OpenBaseOptions,
): Promise<BuildBase> {
  const named = await resolveImage(engine, name, engine.cwd());
  const { update, offline = false, onProgress, signal } = options;
  if (named.kind !== 'image' && engine.owner?.files?.nameOf(named.path) !== undefined) {
    throw forbidden('an image recipe of your own, for a build of packages', 'it is not made yet', {
      hint: 'make the image by `kiln image build`, and name it',
    });
  }
  const image = await openImage(engine, name, { update, offline, onProgress, signal });
  try {
    const { packages } = await readContents(engine.paths, image.manifest.id);
    const description = await describe(engine, named, image, packages);
    return {
      image,
      packages,
      ...description,
      [Symbol.asyncDispose]: () => image[Symbol.asyncDispose](),
    };
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * Takes the image of a lock into use, as {@link openBase} does.
 * @throws KilnError E_BUILD_OFFLINE, and what {@link ensureImage} throws.
 */
export async function openLockedBase(
  engine: Engine,
  lock: ImageLock,
  { offline, onProgress, signal }: OpenBaseOptions,
): Promise<BuildBase> {
  const [{ ensureImage, requestedImage }, { lockedSettings }, { describeLock }] = await Promise.all(
    [
      import('../../../image/build.ts'),
      import('../../../image/lock.ts'),
      import('./describe-base.ts'),
    ],
  );
  const request = { lock: lock.packages, settings: lockedSettings(lock) };
  const ready = await leaseImage(engine.paths, await requestedImage(request));
  if (ready === undefined && offline === true) assertCached(engine.paths, lock.packages);
  const image = ready ?? (await ensureImage({ engine, ...request, onProgress, signal }));
  return {
    image,
    packages: lock.packages.packages,
    ...describeLock(lock),
    [Symbol.asyncDispose]: () => image[Symbol.asyncDispose](),
  };
}

/**
 * Describes an image. A recipe or lock that is what it was is not parsed again: that takes longer
 * than opening a sandbox.
 */
async function describe(
  { paths, owner, cwd }: Engine,
  named: NamedImage,
  image: LeasedImage,
  packages: readonly LockedPackage[],
): Promise<BaseDescription> {
  const from = () => import('./describe-base.ts');
  if (named.kind === 'image') return (await from()).describeImage(image, packages);
  const cache = new SmallCache(join(paths.cache, 'bases'), KEPT);
  const reference = currentReference(paths, named.path);
  const { id } = image.manifest;
  const key =
    reference && digestOf([FORMAT, KILN_VERSION, paths.root, paths.fixtures, id, reference]);
  const known = key && (await cache.read(key));
  if (known) return parseDescription(known);
  const { describeLock, describeRecipe } = await from();
  const { readImageLock } = await import('../../../image/lock.ts');
  const { readRecipe } = await import('../../../image/plan.ts');
  const description =
    named.kind === 'lock'
      ? describeLock(await readImageLock(named.path))
      : await describeRecipe(await readRecipe({ paths, owner, cwd }, named.path), packages);
  const bytes = description.settings.files.reduce((sum, { content }) => sum + content.length, 0);
  // What has secrets is not written.
  const secret = description.repositories.some(({ access }) => access !== undefined);
  if (key && bytes <= MAX_FILES && !secret) await cache.write(key, JSON.stringify(description));
  return description;
}

/** JSON has a buffer as its bytes. */
function parseDescription(text: string): BaseDescription {
  const description = JSON.parse(text) as BaseDescription;
  const files = description.settings.files.map((file) => ({
    ...file,
    content: Buffer.from(file.content),
  }));
  return { ...description, settings: { ...description.settings, files } };
}
