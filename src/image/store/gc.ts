import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { KilnError } from '../../errors.ts';
import { withLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { discardDamaged } from './damage.ts';
import {
  entryFile,
  forgetReader,
  installedSize,
  isOwnedBy,
  type PackageUser,
  packageDirectory,
} from './entry.ts';
import { type ListedImage, listImages, removeIdleImage, sweepImages } from './images.ts';
import { findContents, imageIds, ownersOf } from './manifest.ts';
import {
  discard,
  emptyTrash,
  ensureStore,
  neededPackages,
  packagesLock,
  sweepWorkDirectories,
} from './work-directory.ts';

export interface GcLimits {
  /** Bytes of images and unpacked packages together; no limit by default. */
  readonly maxSize?: number;
  /** Milliseconds; no limit by default. */
  readonly maxAge?: number;
  readonly dryRun?: boolean;
}

export interface GcReport {
  readonly images: readonly string[];
  readonly packages: number;
  readonly bytes: number;
  readonly trees: number;
  readonly failures: readonly KilnError[];
}

/**
 * Removes what is broken or unfinished, then what was not used for too long, then, least recently used first,
 * packages without an image and images, until the rest is small enough. Never what is in use.
 */
export async function collectGarbage(paths: StatePaths, limits: GcLimits): Promise<GcReport> {
  const dryRun = limits.dryRun === true;
  ensureStore(paths);
  if (!dryRun) {
    await sweepWorkDirectories(paths);
    await discardDamaged(paths);
    await sweepImages(paths);
  }
  const collector = new Collector(paths, limits, await listStore(paths, { mends: !dryRun }));
  await collector.collect();
  const { images, packages, bytes } = collector.removed;
  const failures: KilnError[] = [];
  const trees = dryRun ? 0 : await emptyTrash(paths, (error) => failures.push(error));
  return { images, packages, bytes, trees, failures };
}

export interface Amount {
  readonly count: number;
  readonly bytes: number;
}

interface StoreUsage {
  readonly images: Amount;
  readonly imagesNotInUse: Amount;
  readonly packages: Amount;
  readonly packagesWithoutImage: Amount;
}

export async function storeUsage(paths: StatePaths): Promise<StoreUsage> {
  const store = await listStore(paths, { mends: false });
  const images = store.images.map(ownFiles);
  return {
    images: total(images),
    imagesNotInUse: total(images.filter(({ inUse }) => !inUse)),
    packages: total(store.packages),
    packagesWithoutImage: total(unusedIn(paths, store)),
  };
}

/** What an image takes beyond its packages. */
export function ownFiles({ manifest, inUse }: ListedImage) {
  return { bytes: manifest.ownBytes, inUse };
}

interface ListedPackage {
  readonly directory: string;
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly lastUse: number;
}

export async function unusedPackages(paths: StatePaths): Promise<Amount> {
  return total(unusedIn(paths, await listStore(paths, { mends: true })));
}

/**
 * Packages that no image has: all, or a user's own. Those that only others' images have are the user's no more.
 * Returns what was deleted. @throws KilnError E_REMOVE
 */
export async function removeUnusedPackages(paths: StatePaths, user?: PackageUser): Promise<Amount> {
  ensureStore(paths);
  await sweepWorkDirectories(paths);
  const { packages: all, ...store } = await listStore(paths, { mends: user === undefined });
  const packages = all.filter(({ directory }) => user === undefined || isOwnedBy(directory, user));
  const discarded = await discardUnused(
    paths,
    unusedIn(paths, { ...store, packages }),
    store.images,
  );
  for (const { tree } of discarded) await removeTree(tree);
  if (user === undefined) return total(discarded);
  const needless = unusedIn(paths, { ...store, packages, images: imagesOwnedBy(paths, user) });
  await eachUnused(paths, needless, store.images, ({ directory }) => forgetReader(directory, user));
  return total(discarded);
}

/** Their ids, as {@link unusedIn} takes them. */
export function imagesOwnedBy(paths: StatePaths, { uid }: PackageUser) {
  const ids = imageIds(paths).filter((id) => ownersOf(paths, { id }).has(uid));
  return ids.map((id) => ({ manifest: { id } }));
}

async function discardUnused(
  paths: StatePaths,
  unused: readonly ListedPackage[],
  listed: readonly ListedImage[],
): Promise<(ListedPackage & { readonly tree: string })[]> {
  const discarded: (ListedPackage & { readonly tree: string })[] = [];
  await eachUnused(paths, unused, listed, async (found) => {
    const tree = await discard(paths, found.directory);
    if (tree !== undefined) discarded.push({ ...found, tree });
  });
  return discarded;
}

/**
 * Listing the store takes long, so it is done without the lock, for which all makers of images wait. Packages that
 * are needed since then stay; the images that were listed have none of them.
 */
async function eachUnused(
  paths: StatePaths,
  unused: readonly ListedPackage[],
  listed: readonly ListedImage[],
  act: (found: ListedPackage) => Promise<void> | void,
): Promise<void> {
  if (unused.length === 0) return;
  const known = new Set(listed.map(({ manifest }) => manifest.id));
  await withLock(packagesLock(paths), async () => {
    // Before the images, one of which it may become meanwhile.
    const needed = await neededPackages(paths);
    const images = imageIds(paths)
      .filter((id) => !known.has(id))
      .map((id) => ({ manifest: { id } }));
    for (const found of unusedIn(paths, { packages: unused, needed, images })) await act(found);
  });
}

export function total(packages: readonly { readonly bytes: number }[]): Amount {
  return { count: packages.length, bytes: packages.reduce((sum, { bytes }) => sum + bytes, 0) };
}

interface Store {
  readonly packages: readonly ListedPackage[];
  /** Digests of packages that images are being made of. */
  readonly needed: readonly string[];
  readonly images: readonly ListedImage[];
}

async function listStore(paths: StatePaths, how: { readonly mends: boolean }): Promise<Store> {
  const packages = await listPackages(paths, how);
  // Before the images, one of which it may become meanwhile.
  const needed = await neededPackages(paths);
  return { packages, needed, images: await listImages(paths) };
}

/** The packages that no image has or is being made of. */
export function unusedIn<Listed extends { readonly directory: string }>(
  paths: StatePaths,
  {
    packages,
    needed,
    images,
  }: {
    readonly needed: readonly string[];
    readonly packages: readonly Listed[];
    readonly images: readonly { readonly manifest: { readonly id: string } }[];
  },
): Listed[] {
  // What images are made of is only read if it matters.
  if (packages.length === 0) return [];
  const linked = images.flatMap(
    ({ manifest }) => findContents(paths, manifest.id).value?.linked ?? [],
  );
  const used = new Set([...needed, ...linked].map((digest) => packageDirectory(paths, digest)));
  return packages.filter(({ directory }) => !used.has(directory));
}

async function listPackages(
  paths: StatePaths,
  { mends }: { readonly mends: boolean },
): Promise<ListedPackage[]> {
  const listed: ListedPackage[] = [];
  for (const name of await readdir(paths.packages).catch(() => [])) {
    const directory = join(paths.packages, name);
    const file = entryFile(directory);
    const used = await stat(file).catch(() => undefined);
    const bytes = installedSize(directory);
    if (bytes === undefined) {
      if (!mends) continue;
      const why = used === undefined ? 'it is gone' : 'it is not what kiln wrote';
      tellDamage({ path: file, why, done: 'the package is thrown away' });
      await discard(paths, directory);
      continue;
    }
    listed.push({ directory, bytes, lastUse: used?.mtimeMs ?? 0 });
  }
  return listed.sort((a, b) => a.lastUse - b.lastUse);
}

class Collector {
  readonly removed = { images: [] as string[], packages: 0, bytes: 0 };
  readonly #paths: StatePaths;
  readonly #limits: GcLimits;
  #store: Store;

  constructor(paths: StatePaths, limits: GcLimits, store: Store) {
    this.#paths = paths;
    this.#limits = limits;
    this.#store = store;
  }

  async collect(): Promise<void> {
    const { maxAge = Number.POSITIVE_INFINITY, maxSize = Number.POSITIVE_INFINITY } = this.#limits;
    const oldest = Date.now() - maxAge;
    for (const image of this.#store.images.toReversed()) {
      if (image.lastUse < oldest) await this.#removeImage(image);
    }
    const unused = unusedIn(this.#paths, this.#store);
    await this.#removePackages(unused.filter(({ lastUse }) => lastUse < oldest));
    await this.#shrink(maxSize);
  }

  async #shrink(maxSize: number): Promise<void> {
    const stubborn = new Set<ListedImage>();
    while (this.#size() > maxSize) {
      let excess = this.#size() - maxSize;
      const going: ListedPackage[] = [];
      for (const unused of unusedIn(this.#paths, this.#store)) {
        if (excess <= 0) break;
        going.push(unused);
        excess -= unused.bytes;
      }
      await this.#removePackages(going);
      const next = this.#store.images.findLast((image) => !stubborn.has(image));
      if (next === undefined || this.#size() <= maxSize) return;
      if (!(await this.#removeImage(next))) stubborn.add(next);
    }
  }

  #size(): number {
    const { packages, images } = this.#store;
    return total(packages).bytes + total(images.map(ownFiles)).bytes;
  }

  async #removePackages(unused: readonly ListedPackage[]): Promise<void> {
    const removed =
      this.#limits.dryRun === true
        ? unused
        : await discardUnused(this.#paths, unused, this.#store.images);
    const directories = new Set(removed.map(({ directory }) => directory));
    const packages = this.#store.packages.filter(({ directory }) => !directories.has(directory));
    this.#store = { ...this.#store, packages };
    this.removed.packages += removed.length;
    this.removed.bytes += total(removed).bytes;
  }

  async #removeImage(image: ListedImage): Promise<boolean> {
    if (this.#limits.dryRun === true && image.inUse) return false;
    if (this.#limits.dryRun !== true) {
      const { gone } = await removeIdleImage(this.#paths, image.manifest.id);
      if (!gone) return false;
    }
    const images = this.#store.images.filter((other) => other !== image);
    this.#store = { ...this.#store, images };
    this.removed.images.push(image.manifest.id);
    this.removed.bytes += image.manifest.ownBytes;
    return true;
  }
}
