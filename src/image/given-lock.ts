/** Locks that callers bring: a file says in them where packages come from, and by which keys they are checked. */
import { dirname } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { lockedRepository, type Repository } from '../packages/repository/configuration.ts';
import {
  type Lock,
  type LockedRepository,
  sourceSchema,
} from '../packages/repository/lock/lock.ts';
import { lockAccess } from '../packages/repository/transport/access.ts';
import type { LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import { isTrusted } from '../recipe/named.ts';
import {
  anywhere,
  inFolder,
  inRealFolder,
  notAllowedError,
  type RecipeReach,
} from '../recipe/reach.ts';
import { askedDigest, type ImageLock, readImageLock } from './lock.ts';
import type { RecipePlace } from './read-recipe.ts';

interface GivenLock {
  /** Its path, without links above it. */
  readonly file: string;
  readonly reach: RecipeReach;
}

/** What a lock may name of the host: what a recipe in its place may. */
function givenLock({ paths, allowHost, holdName }: RecipePlace, path: string): GivenLock {
  const file = inRealFolder(path);
  const isKnown = isTrusted(paths, path);
  const bounds = { title: file, folder: dirname(file), fixtures: paths.fixtures };
  if (isKnown) return { file, reach: anywhere(undefined) };
  return { file, reach: allowHost() ? anywhere(undefined, holdName) : inFolder(bounds) };
}

/** A lock of root's that is named by its path. @throws KilnError E_LOCK_READ, E_LOCK_INVALID, E_HOST_NOT_ALLOWED */
export async function readGivenLock(place: RecipePlace, path: string): Promise<ImageLock> {
  const { file, reach } = givenLock(place, path);
  const lock = await readImageLock(file, reach.below);
  return { ...lock, packages: await bound(lock.packages, { file, reach }) };
}

/** @param path of the lock that `lock` is a part of @throws KilnError E_HOST_NOT_ALLOWED */
export async function boundLock(place: RecipePlace, path: string, lock: Lock): Promise<Lock> {
  return await bound(lock, givenLock(place, path));
}

async function bound(lock: Lock, given: GivenLock): Promise<Lock> {
  refuseFiles(lock, given);
  const { below, place } = given.reach;
  const repositories: LockedRepository[] = [];
  for (const { below: _, ...repository } of lock.repositories) {
    const { source, gpgkey } = repository;
    if (source.kind === 'directory') await place(source.path, 'folder');
    for (const key of gpgkey) await place(key, 'file');
    repositories.push({ ...repository, ...defined({ below }) });
  }
  return { ...lock, repositories };
}

/** A package may have a place of its own, whatever its repository. @throws KilnError E_HOST_NOT_ALLOWED */
function refuseFiles({ packages }: Lock, { file, reach }: GivenLock): void {
  const outside = packages.find(({ location }) => location.startsWith('file:'));
  if (outside === undefined || reach.below === undefined) return;
  throw notAllowedError(file, outside.location, 'it is a file of its own');
}

/**
 * The packages that the lock beside a recipe pins. Where they come from, and whom to trust, the recipe says.
 * @param path of a user's lock, that of a copy
 * @throws KilnError E_LOCK_STALE, and as {@link readGivenLock}
 */
export async function lockedPackages(
  place: RecipePlace,
  path: string,
  { recipe, recipePath, isUsers }: LockedRecipe,
): Promise<Lock> {
  const given = isUsers ? undefined : givenLock(place, path);
  const lock = await readImageLock(given?.file ?? path, given?.reach.below);
  if (lock.asked !== askedDigest(recipe)) {
    const what = `the lock ${path} was made for another version of ${recipePath}`;
    throw new KilnError('E_LOCK_STALE', what, {
      hint: '`kiln image lock` makes it again; `--update` ignores it',
    });
  }
  if (given !== undefined) refuseFiles(lock.packages, given);
  return withTrustOf(recipe.repositories, lock.packages, path);
}

interface LockedRecipe {
  readonly recipe: LoadedImageRecipe;
  readonly recipePath: string;
  readonly isUsers: boolean;
}

/** @throws KilnError E_LOCK_STALE */
function withTrustOf(recipe: readonly Repository[], lock: Lock, path: string): Lock {
  const repositories = lock.repositories.map(({ id }) => {
    const now = recipe.find((one) => one.id === id);
    if (now !== undefined)
      return { ...lockedRepository(now), source: sourceSchema.parse(now.source) };
    const what = `the lock ${path} names repository ${id}, which the recipe does not have`;
    throw new KilnError('E_LOCK_STALE', what, {
      hint: '`kiln image build --update` goes without the lock',
    });
  });
  return { ...lock, repositories, ...lockAccess(recipe) };
}
