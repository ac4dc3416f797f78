import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { counted } from '../../../counted.ts';
import type { Engine } from '../../../engine.ts';
import { KilnError } from '../../../errors.ts';
import { SmallCache } from '../../../host/state/checked-file.ts';
import { KILN_VERSION, type StatePaths } from '../../../host/state/paths.ts';
import { type NamedImage, resolveImage } from '../../../image/find.ts';
import { refuseHostImage } from '../../../image/host.ts';
import { digestOf } from '../../../image/key.ts';
import type { ImageLock } from '../../../image/lock.ts';
import { openImage } from '../../../image/open.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import { currentReference, sourceKey } from '../../../image/reference.ts';
import type { PackageUser } from '../../../image/store/entry.ts';
import { type LeasedImage, leaseImage } from '../../../image/store/images.ts';
import { readContents, readManifest } from '../../../image/store/manifest.ts';
import { Cache } from '../../../packages/repository/cache.ts';
import type { Lock, LockedPackage } from '../../../packages/repository/lock/lock.ts';
import { isCallers } from '../../../recipe/named.ts';
import type { BaseDescription } from './describe-base.ts';

export interface BuildBase extends BaseDescription, AsyncDisposable {
  readonly image: LeasedImage;
  readonly packages: readonly LockedPackage[];
  /** Whose recipe it is, unless it is root's: then repositories are reached as that user's. */
  readonly user?: PackageUser | undefined;
}

interface OpenBaseOptions {
  readonly update: boolean;
  readonly offline?: boolean | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Cached descriptions, of some 100 KB each. */
const KEPT = 100;

const FORMAT = 2;

const MAX_FILES = 2 ** 20;

export async function openBase(
  engine: Engine,
  name: string,
  options: OpenBaseOptions,
): Promise<BuildBase> {
  const named = await resolveImage(engine, name, engine.cwd());
  const { update, offline = false, onProgress, signal } = options;
  const { owner } = engine;
  const isOwn = 'path' in named && owner?.files?.nameOf(named.path) !== undefined;
  const image = await openImage(engine, name, { update, offline, onProgress, signal });
  try {
    refuseHostImage(image.manifest, 'builds');
    const { packages } = await readContents(engine.paths, image.manifest.id);
    const description = await describe(engine, named, image, packages);
    const dispose = () => image[Symbol.asyncDispose]();
    const user = isOwn ? owner : undefined;
    return { image, packages, user, ...description, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
}

export async function openLockedBase(
  engine: Engine,
  lock: ImageLock,
  { offline, onProgress, signal }: OpenBaseOptions,
): Promise<BuildBase> {
  const { ensureImage, requestedImage } = await import('../../../image/build.ts');
  const { lockedSettings } = await import('../../../image/lock.ts');
  const { describeLock } = await import('./describe-base.ts');
  const request = { lock: lock.packages, settings: lockedSettings(lock) };
  const id = await requestedImage(request);
  // An image may be another user's alone: ensureImage() makes it root's as well.
  const ready = engine.owner === undefined ? await leaseImage(engine.paths, id) : undefined;
  const isThere = ready !== undefined || readManifest(engine.paths, id) !== undefined;
  if (!isThere && offline === true) assertCached(engine.paths, lock.packages);
  const image = ready ?? (await ensureImage({ engine, ...request, onProgress, signal }));
  return {
    image,
    packages: lock.packages.packages,
    ...describeLock(lock),
    [Symbol.asyncDispose]: () => image[Symbol.asyncDispose](),
  };
}

/** Describes an image. An unchanged recipe or lock is not parsed again: that takes longer than opening a sandbox. */
async function describe(
  engine: Engine,
  named: NamedImage,
  image: LeasedImage,
  packages: readonly LockedPackage[],
): Promise<BaseDescription> {
  const from = () => import('./describe-base.ts');
  if (!('path' in named)) return (await from()).describeImage(image, packages);
  const { paths } = engine;
  const cache = new SmallCache(join(paths.cache, 'bases'), KEPT);
  const reference = await currentReference(engine, sourceKey(named));
  const { id } = image.manifest;
  const key =
    reference && digestOf([FORMAT, KILN_VERSION, paths.root, paths.fixtures, id, reference]);
  const known = key && (await cache.read(key));
  if (known) return await held(engine, named.path, parseDescription(known));
  const { describeLock, describeRecipe } = await from();
  const { readGivenLock } = await import('../../../image/given-lock.ts');
  const { readRecipe } = await import('../../../image/read-recipe.ts');
  const description =
    named.kind === 'lock'
      ? describeLock(await readGivenLock(engine, named.path))
      : await describeRecipe(await readRecipe(engine, named.path, named.arch), packages);
  const bytes = description.settings.files.reduce((sum, { content }) => sum + content.length, 0);
  // Secrets are not written.
  const secret = description.repositories.some(({ access }) => access !== undefined);
  if (key && bytes <= MAX_FILES && !secret) await cache.write(key, JSON.stringify(description));
  return description;
}

/** Local repositories that a caller's recipe or lock names are the caller's, too. */
async function held(
  { paths, holdName }: Engine,
  from: string,
  description: BaseDescription,
): Promise<BaseDescription> {
  for (const { source } of isCallers(paths, from) ? description.repositories : [])
    if (source.kind === 'directory' && isCallers(paths, source.path)) await holdName(source.path);
  return description;
}

function parseDescription(text: string): BaseDescription {
  const description = JSON.parse(text) as BaseDescription;
  const files = description.settings.files.map((file) => ({
    ...file,
    content: Buffer.from(file.content),
  }));
  return { ...description, settings: { ...description.settings, files } };
}

export function assertCached(paths: StatePaths, lock: Lock): void {
  const cache = new Cache(paths);
  const local = new Set(
    lock.repositories.filter(({ source }) => source.kind === 'directory').map(({ id }) => id),
  );
  const missing = lock.packages.filter(
    ({ repository, location, digest }) =>
      !(local.has(repository) && !/^https?:/.test(location)) && !existsSync(cache.object(digest)),
  );
  const [first] = missing;
  if (first === undefined) return;
  const what = `${counted(missing.length, 'package is', 'packages are')} not on this machine, ${first.nevra} is the first`;
  throw new KilnError('E_BUILD_OFFLINE', what, {
    hint: 'build once without --offline: what is downloaded is kept',
    details: { missing: missing.map(({ nevra }) => nevra) },
  });
}
