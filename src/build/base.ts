import { ensureImage, type ImageSettings, requestedImage } from '../image/build.ts';
import { resolveImage } from '../image/find.ts';
import {
  askedDigest,
  type ImageLock,
  imageLock,
  lockedSettings,
  readImageLock,
} from '../image/lock.ts';
import { openImage } from '../image/open.ts';
import { readRecipe, settingsOf } from '../image/plan.ts';
import type { OnImageProgress } from '../image/progress.ts';
import { readContents } from '../image/store/contents.ts';
import { type LeasedImage, leaseImage } from '../image/store/images.ts';
import type { LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import type { Repository } from '../repository/configuration.ts';
import {
  type Lock,
  type LockedPackage,
  type LockedRepository,
  lockFormat,
} from '../repository/lock.ts';
import type { Engine } from '../sandbox/open.ts';
import { assertCached } from './offline.ts';

/** The image that a build starts from, and what is needed to put more packages on top of it. */
export interface BuildBase extends AsyncDisposable {
  readonly image: LeasedImage;
  /** Empty for an image that is known by its id only. */
  readonly repositories: readonly Repository[];
  /** What was asked for to make it: names, groups. */
  readonly install: readonly string[];
  readonly exclude: readonly string[];
  readonly recommends: boolean;
  readonly packages: readonly LockedPackage[];
  readonly settings: ImageSettings;
  /** The image as a lock; undefined where it is not known which repositories it came from. */
  readonly lock: ImageLock | undefined;
}

/** How to come by it. */
export interface OpenBaseOptions {
  readonly update: boolean;
  readonly offline?: boolean | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Takes the base image of a build into use; it is made if need be.
 * @throws what {@link openImage} throws.
 */
export async function openBase(
  engine: Engine,
  name: string,
  options: OpenBaseOptions,
): Promise<BuildBase> {
  const named = await resolveImage(engine.paths, name);
  const { update, offline = false, onProgress, signal } = options;
  const image = await openImage(engine, name, { update, offline, onProgress, signal });
  try {
    const { packages } = await readContents(engine.paths, image.manifest.id);
    const dispose = { [Symbol.asyncDispose]: () => image[Symbol.asyncDispose]() };
    if (named.kind === 'recipe') {
      const recipe = await readRecipe(engine.paths, named.path);
      return { image, packages, ...(await fromRecipe(recipe, packages)), ...dispose };
    }
    if (named.kind === 'lock') {
      return { image, packages, ...fromLock(await readImageLock(named.path)), ...dispose };
    }
    return { image, packages, ...fromImage(image, packages), ...dispose };
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
  const request = { lock: lock.packages, settings: lockedSettings(lock) };
  const ready = await leaseImage(engine.paths, requestedImage(request));
  if (ready === undefined && offline === true) assertCached(engine.paths, lock.packages);
  const image = ready ?? (await ensureImage({ engine, ...request, onProgress, signal }));
  return {
    image,
    packages: lock.packages.packages,
    ...fromLock(lock),
    [Symbol.asyncDispose]: () => image[Symbol.asyncDispose](),
  };
}

type Described = Omit<BuildBase, 'image' | 'packages' | keyof AsyncDisposable>;

async function fromRecipe(
  recipe: LoadedImageRecipe,
  packages: readonly LockedPackage[],
): Promise<Described> {
  const settings = await settingsOf(recipe);
  const { repositories, exclude, recommends } = recipe;
  const install = [...recipe.packages, ...recipe.groups.map((group) => `@${group}`)];
  const lock = lockOf(recipe.arch, install, packages, repositories);
  return {
    repositories,
    install,
    exclude,
    recommends,
    settings,
    lock: lock && imageLock(settings, lock, askedDigest(recipe)),
  };
}

function fromLock(lock: ImageLock): Described {
  return {
    repositories: lock.packages.repositories.map(unlockedRepository),
    install: lock.packages.requested,
    exclude: [],
    recommends: false,
    settings: lockedSettings(lock),
    lock,
  };
}

/** An image by its id: where its packages came from is not known. */
function fromImage(image: LeasedImage, packages: readonly LockedPackage[]): Described {
  const { name, description, environment, user, workdir } = image.manifest;
  return {
    repositories: [],
    install: packages.map(({ nevra }) => nevra),
    exclude: [],
    recommends: false,
    settings: {
      name,
      description,
      environment,
      user: user.name,
      workdir,
      users: [],
      files: [],
      scriptlets: { mode: 'auto', timeout: 300 },
    },
    lock: undefined,
  };
}

/** The packages of an image as a lock again; undefined if a repository is missing. */
function lockOf(
  arch: string,
  requested: readonly string[],
  packages: readonly LockedPackage[],
  repositories: readonly Repository[],
): Lock | undefined {
  const used = new Set(packages.map(({ repository }) => repository));
  const known: LockedRepository[] = repositories
    .filter(({ id }) => used.has(id))
    .map(({ id, source, gpgcheck, gpgkey }) => lockedRepository({ id, source, gpgcheck, gpgkey }));
  if (known.length < used.size) return undefined;
  return {
    format: lockFormat,
    arch,
    requested: [...requested],
    repositories: known,
    packages: [...packages],
  };
}

function lockedRepository(
  repository: Pick<Repository, 'id' | 'source' | 'gpgcheck' | 'gpgkey'>,
): LockedRepository {
  const { id, source, gpgcheck, gpgkey } = repository;
  return {
    id,
    source: source.kind === 'baseurl' ? { kind: 'baseurl', urls: [...source.urls] } : source,
    gpgcheck,
    gpgkey: [...gpgkey],
  };
}

/** A repository of a lock, to be solved from once more; what a lock does not say is dnf's default. */
function unlockedRepository({ id, source, gpgcheck, gpgkey }: LockedRepository): Repository {
  return {
    id,
    name: id,
    source,
    gpgcheck,
    repoGpgcheck: false,
    gpgkey,
    priority: 99,
    cost: 1000,
    excludepkgs: [],
    includepkgs: [],
    metadataExpire: 6 * 3600,
  };
}
