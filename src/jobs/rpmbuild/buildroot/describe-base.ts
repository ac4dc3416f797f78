import { DEFAULT_DISK } from '../../../host/state/disk-watch.ts';
import type { ImageSettings } from '../../../image/build.ts';
import { askedDigest, type ImageLock, imageLock, lockedSettings } from '../../../image/lock.ts';
import { settingsOf } from '../../../image/read-recipe.ts';
import type { LeasedImage } from '../../../image/store/images.ts';
import {
  lockedRepository,
  type Repository,
  unlockedRepository,
} from '../../../packages/repository/configuration.ts';
import {
  LOCK_FORMAT,
  type Lock,
  type LockedPackage,
} from '../../../packages/repository/lock/lock.ts';
import type { ImageModules, LoadedImageRecipe } from '../../../recipe/load-image-recipe.ts';

export interface BaseDescription {
  /** Empty for an image that is known by its id only. */
  readonly repositories: readonly Repository[];
  readonly install: readonly string[];
  readonly exclude: readonly string[];
  readonly modules?: ImageModules | undefined;
  readonly recommends: boolean;
  readonly settings: ImageSettings;
  readonly lock?: ImageLock | undefined;
}

export async function describeRecipe(
  recipe: LoadedImageRecipe,
  packages: readonly LockedPackage[],
): Promise<BaseDescription> {
  const settings = await settingsOf(recipe);
  const { repositories, exclude, modules, recommends } = recipe;
  const install = [...recipe.packages, ...recipe.groups.map((group) => `@${group}`)];
  const lock = lockOf(recipe.arch, install, packages, repositories);
  return {
    repositories,
    install,
    exclude,
    modules,
    recommends,
    settings,
    lock: lock && imageLock(settings, lock, askedDigest(recipe), modules),
  };
}

export function describeLock(lock: ImageLock): BaseDescription {
  return {
    repositories: lock.packages.repositories.map(unlockedRepository),
    install: lock.packages.requested,
    exclude: [],
    modules: lock.modules,
    recommends: false,
    settings: lockedSettings(lock),
    lock,
  };
}

/** Where the packages of an image came from is not known by its id. */
export function describeImage(
  image: LeasedImage,
  packages: readonly LockedPackage[],
): BaseDescription {
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
      scriptlets: { mode: 'auto', timeout: 300, disk: DEFAULT_DISK },
    },
    lock: undefined,
  };
}

function lockOf(
  arch: string,
  requested: readonly string[],
  packages: readonly LockedPackage[],
  repositories: readonly Repository[],
): Lock | undefined {
  const used = new Set(packages.map(({ repository }) => repository));
  const known = repositories.filter(({ id }) => used.has(id)).map(lockedRepository);
  if (known.length < used.size) return undefined;
  return {
    format: LOCK_FORMAT,
    arch,
    requested: [...requested],
    repositories: known,
    packages: [...packages],
  };
}
