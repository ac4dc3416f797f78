/** What a base image was made from, found out from its recipe, its lock, or itself. */

import { DEFAULT_DISK } from '../../../host/state/disk-watch.ts';
import { askedDigest, type ImageLock, imageLock, lockedSettings } from '../../../image/lock.ts';
import { settingsOf } from '../../../image/plan.ts';
import type { LeasedImage } from '../../../image/store/images.ts';
import type { Repository } from '../../../packages/repository/configuration.ts';
import type {
  Lock,
  LockedPackage,
  LockedRepository,
} from '../../../packages/repository/lock/lock.ts';
import { LOCK_FORMAT } from '../../../packages/repository/lock/lock-format.ts';
import type { LoadedImageRecipe } from '../../../recipe/load-image-recipe.ts';
import type { BaseDescription } from './base.ts';

/** An image by its recipe. */
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

/** An image by its lock. */
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

/** An image by its id: where its packages came from is not known. */
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
    format: LOCK_FORMAT,
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
    moduleHotfixes: false,
    metadataExpire: 6 * 3600,
  };
}
