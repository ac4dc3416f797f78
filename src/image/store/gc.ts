import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { withLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import {
  broughtBy,
  entryFile,
  installedSize,
  type PackageUser,
  packageDirectory,
} from './entry.ts';
import { type ListedImage, listImages, removeImage, sweepImages } from './images.ts';
import { findContents } from './manifest.ts';
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
    await sweepImages(paths);
  }
  const { images, packages, bytes } = await withLock(packagesLock(paths), async () => {
    const collector = new Collector(paths, limits, await listStore(paths, { mends: !dryRun }));
    await collector.collect();
    return collector.removed;
  });
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

/** Packages that no image has: all, or a user's own. Returns what was deleted. @throws KilnError E_REMOVE */
export async function removeUnusedPackages(paths: StatePaths, user?: PackageUser): Promise<Amount> {
  ensureStore(paths);
  await sweepWorkDirectories(paths);
  const trees: (string | undefined)[] = [];
  const unused = await withLock(packagesLock(paths), async () => {
    const store = await listStore(paths, { mends: user === undefined });
    const listed = unusedIn(paths, store).filter(
      ({ directory }) => user === undefined || broughtBy(directory, user),
    );
    for (const { directory } of listed) trees.push(await discard(paths, directory));
    return listed;
  });
  for (const tree of trees) if (tree !== undefined) await removeTree(tree);
  return total(unused);
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
  { packages, needed, images }: Omit<Store, 'packages'> & { readonly packages: readonly Listed[] },
): Listed[] {
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
    for (const unused of unusedIn(this.#paths, this.#store)) {
      if (unused.lastUse < oldest) await this.#removePackage(unused);
    }
    await this.#shrink(maxSize);
  }

  async #shrink(maxSize: number): Promise<void> {
    const stubborn = new Set<ListedImage>();
    while (this.#size() > maxSize) {
      for (const unused of unusedIn(this.#paths, this.#store)) {
        if (this.#size() > maxSize) await this.#removePackage(unused);
      }
      const next = this.#store.images.findLast((image) => !stubborn.has(image));
      if (next === undefined || this.#size() <= maxSize) return;
      if (!(await this.#removeImage(next))) stubborn.add(next);
    }
  }

  #size(): number {
    const { packages, images } = this.#store;
    return total(packages).bytes + total(images.map(ownFiles)).bytes;
  }

  async #removePackage(unused: ListedPackage): Promise<void> {
    if (this.#limits.dryRun !== true) await discard(this.#paths, unused.directory);
    const packages = this.#store.packages.filter((other) => other !== unused);
    this.#store = { ...this.#store, packages };
    this.removed.packages++;
    this.removed.bytes += unused.bytes;
  }

  async #removeImage(image: ListedImage): Promise<boolean> {
    if (this.#limits.dryRun === true && image.inUse) return false;
    try {
      if (this.#limits.dryRun !== true) await removeImage(this.#paths, image.manifest.id);
    } catch (error) {
      if (error instanceof KilnError && error.code === 'E_IMAGE_IN_USE') return false;
      if (!(error instanceof KilnError && error.code === 'E_IMAGE_MISSING')) throw error;
    }
    const images = this.#store.images.filter((other) => other !== image);
    this.#store = { ...this.#store, images };
    this.removed.images.push(image.manifest.id);
    this.removed.bytes += image.manifest.ownBytes;
    return true;
  }
}
