/** What of the state directory's disk is a user's: the bound is `users.limits.storage`. */

import { existsSync, readdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { counted } from '../../counted.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { treeUsage } from '../../host/files/tree-usage.ts';
import type { UserShare } from '../../host/libvirt/sandbox-host.ts';
import { bytesFor } from '../../host/state/disk-watch.ts';
import { pathsOfUser, type StatePaths } from '../../host/state/paths.ts';
import { inUnits, SIZES } from '../../options/measures.ts';
import { BUILD_CACHES } from '../../packages/repository/cache.ts';
import { installedSize, isOwnedBy } from './entry.ts';
import { type Amount, imagesOwnedBy, ownFiles, total, unusedIn } from './gc.ts';
import { type ListedImage, listImages, removeIdleImage } from './images.ts';
import { ownersOf, ROOT } from './manifest.ts';
import { snapshotUsage } from './snapshots.ts';
import { neededPackages } from './work-directory.ts';

export interface UserStorage {
  /** Files of the user's images that lie in no package. */
  readonly images: Amount & { readonly unusedBytes: number };
  /** That the user has brought, and no image of root's has; those of several users count for each. */
  readonly packages: Amount & { readonly unusedBytes: number };
  /** Of the user's recipes, and what is known of their repositories. */
  readonly downloads: Amount;
  /** Of builds, with `--cache`. */
  readonly caches: Amount;
  /** Of kiln-mock. */
  readonly roots: Amount;
  readonly snapshots: Amount;
}

/** The folder of a root of kiln-mock; root's own names do not begin with that sign. */
export function rootFolder(
  paths: StatePaths,
  owner: { readonly uid: number } | undefined,
  name: string,
): string {
  return join(paths.roots, owner === undefined ? name : `@${owner.uid}-${name}`);
}

/** Names of the owner's roots; root sees all, users' with the sign. */
export async function rootNames(
  paths: StatePaths,
  owner: { readonly uid: number } | undefined,
): Promise<string[]> {
  const prefix = basename(rootFolder(paths, owner, ''));
  const names = await readdir(paths.roots).catch(() => []);
  if (owner === undefined) return names;
  return names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
}

export function buildCachesOf(paths: StatePaths, user: { readonly uid: number }): string {
  return join(pathsOfUser(paths, user).cache, BUILD_CACHES);
}

/** Whoever looks an image up by its name looks at everybody's names, in kilnd's own thread. */
const IMAGES_MAX = 500;

const EVERYTHING = { bytes: Number.POSITIVE_INFINITY, entries: Number.POSITIVE_INFINITY };

/** Root's images, and packages that everybody can fetch, are nobody's share. */
export async function userStorage(
  paths: StatePaths,
  user: { readonly uid: number },
): Promise<UserStorage> {
  const images = (await imagesOf(paths, user)).map(ownFiles);
  const packages = await packagesOf(paths, user);
  const { bytes: unusedBytes } = await unusedPackagesOf(paths, user, packages);
  return {
    ...(await keptBy(paths, user, images, packages)),
    images: { ...total(images), unusedBytes: total(images.filter(({ inUse }) => !inUse)).bytes },
    packages: { ...total(packages), unusedBytes },
    caches: cachesIn(buildCachesOf(paths, user), 1),
  };
}

/** Packages of the user's share that no image of the user's has. */
export async function unusedPackagesOf(
  paths: StatePaths,
  user: { readonly uid: number },
  given?: Awaited<ReturnType<typeof packagesOf>>,
): Promise<Amount> {
  const packages = given ?? (await packagesOf(paths, user));
  const needed = await neededPackages(paths);
  return total(unusedIn(paths, { packages, needed, images: imagesOwnedBy(paths, user) }));
}

async function keptBy(
  paths: StatePaths,
  user: { readonly uid: number },
  images: readonly { readonly bytes: number }[],
  packages: readonly { readonly bytes: number }[],
): Promise<Record<keyof UserStorage, Amount>> {
  const { cache } = pathsOfUser(paths, user);
  const [files, caches] = [keptIn(cache), keptIn(buildCachesOf(paths, user))];
  return {
    images: total(images),
    packages: total(packages),
    downloads: { count: files.count - caches.count, bytes: files.bytes - caches.bytes },
    caches,
    roots: total(
      (await rootNames(paths, user)).map((name) => keptIn(rootFolder(paths, user, name))),
    ),
    snapshots: await snapshotUsage(paths, user),
  };
}

/**
 * The bytes that a user may still keep, without a bound if `owner` is root. Images that kiln has made for the user's
 * builds make room, the least recently used first. @param more what the caller is about to keep
 * @throws KilnError E_DISK
 */
export async function storageLeft(
  paths: StatePaths,
  owner: { readonly uid: number; readonly share: UserShare } | undefined,
  more = 0,
): Promise<number> {
  if (owner === undefined) return Number.POSITIVE_INFINITY;
  const images = await imagesOf(paths, owner);
  const kept = await keptBy(paths, owner, images.map(ownFiles), await packagesOf(paths, owner));
  const passing = images.filter(
    ({ manifest, inUse }) => !inUse && ownersOf(paths, manifest).get(owner.uid)?.forBuilds === true,
  );
  if (kept.images.count - passing.length >= IMAGES_MAX) {
    throw new KilnError(
      'E_DISK',
      `user ${owner.uid} has ${counted(kept.images.count, 'image')} already`,
      {
        hint: '`kiln image rm` and `kiln gc --max-age` remove some: their number counts, not only what they take',
      },
    );
  }
  const { storage } = owner.share;
  let { count } = kept.images;
  let left = Object.values(kept).reduce((rest, { bytes }) => rest - bytes, storage - more);
  const room = left + total(passing.map(ownFiles)).bytes;
  if (room < 0) {
    const wanted = Math.ceil((storage - room) / SIZES.M) * SIZES.M;
    const what = `user ${owner.uid} would keep ${inUnits(wanted, SIZES)} of images, packages, downloads, caches, roots and snapshots, more than ${inUnits(storage, SIZES)}`;
    throw new KilnError('E_DISK', what, {
      hint: '`kiln df` shows what takes them, `kiln image rm` and `kiln gc` give room back; root sets users.limits.storage in /etc/kiln/kiln.yaml',
    });
  }
  for (const { manifest } of passing.reverse()) {
    if (left >= 0 && count < IMAGES_MAX) break;
    const { gone, tree } = await removeIdleImage(paths, manifest.id, owner.uid);
    if (tree !== undefined) await removeTree(tree);
    if (!gone) continue;
    left += manifest.ownBytes;
    count--;
  }
  // Another build of the user's uses or removes one of the images since they were listed.
  if (left < 0 || count >= IMAGES_MAX) return await storageLeft(paths, owner, more);
  return room;
}

export async function imagesOf(
  paths: StatePaths,
  { uid }: { readonly uid: number },
): Promise<ListedImage[]> {
  return (await listImages(paths)).filter(({ manifest }) => {
    const owners = ownersOf(paths, manifest);
    return owners.has(uid) && !owners.has(ROOT);
  });
}

/** Without those of root's images, which the user cannot give back. */
async function packagesOf(paths: StatePaths, user: { readonly uid: number }) {
  const names = await readdir(paths.packages).catch(() => []);
  const packages = names
    .map((name) => join(paths.packages, name))
    .filter((directory) => isOwnedBy(directory, user))
    .map((directory) => ({ directory, bytes: installedSize(directory) ?? 0 }));
  return unusedIn(paths, { packages, needed: [], images: imagesOwnedBy(paths, { uid: ROOT }) });
}

/** Files with nothing in them take a disk, too. */
function keptIn(folder: string): Amount {
  const { bytes, count } = usageOf(folder);
  return { bytes: Math.max(bytes, bytesFor(count)), count };
}

/** Caches of builds, not the files in them. @param depth how far below `folder` they lie: 2 below a folder for each user */
export function cachesIn(folder: string, depth: 1 | 2): Amount {
  const names = (from: string, below: number): number =>
    attempt(() => readdirSync(from, { withFileTypes: true }))
      ?.filter((entry) => entry.isDirectory())
      .reduce((sum, { name }) => sum + (below === 1 ? 1 : names(join(from, name), below - 1)), 0) ??
    0;
  return { ...usageOf(folder), count: names(folder, depth) };
}

export function usageOf(folder: string): Amount {
  if (!existsSync(folder)) return { count: 0, bytes: 0 };
  const { bytes, entries } = treeUsage(folder, EVERYTHING);
  return { bytes, count: entries };
}
