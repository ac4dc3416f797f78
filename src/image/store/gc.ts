import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { tryLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { entryFile, installedSize, packageDirectory } from './entry.ts';
import { type ListedImage, listImages, removeImage, sweepImages } from './images.ts';
import { readContents } from './manifest.ts';
import { packagesLock } from './packages.ts';
import { discard, emptyTrash, ensureStore, sweepWorkDirectories } from './work-directory.ts';

/** The limits of garbage collection. */
export interface GcLimits {
  /** Bytes of all images and unpacked packages together; no limit by default. */
  readonly maxSize?: number;
  /** Milliseconds since the last use; no limit by default. */
  readonly maxAge?: number;
}

/** What was removed. */
export interface GcReport {
  /** Ids. */
  readonly images: readonly string[];
  /** How many unpacked packages without an image. */
  readonly packages: number;
  /** How many trees were deleted for good. */
  readonly trees: number;
  /** Why trees were not deleted; the next call tries again. */
  readonly failures: readonly KilnError[];
}

/**
 * Removes what is broken or unfinished, then what was not used for too long, then, least recently used first,
 * packages without an image and images, until the rest is small enough. Never removes what is in use. Removed
 * trees are deleted.
 */
export async function collectGarbage(paths: StatePaths, limits: GcLimits): Promise<GcReport> {
  ensureStore(paths);
  await sweepWorkDirectories(paths);
  await sweepImages(paths);
  // The maker of an image holds this lock: its packages have no image yet that would keep them.
  await using lock = await tryLock(packagesLock(paths));
  const packages = lock === undefined ? [] : await listPackages(paths);
  const collector = new Collector(paths, limits, packages, await listImages(paths));
  await collector.collect();
  const { images, packages: count } = collector.removed;
  const failures: KilnError[] = [];
  const trees = await emptyTrash(paths, (error) => failures.push(error));
  return { images, packages: count, trees, failures };
}

/** An unpacked package, for garbage collection. */
interface ListedPackage {
  readonly directory: string;
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly lastUse: number;
}

/** The number and bytes of unpacked packages without an image. */
export interface UnusedPackages {
  readonly count: number;
  readonly bytes: number;
}

/** Counts unpacked packages without an image. */
export async function unusedPackages(paths: StatePaths): Promise<UnusedPackages> {
  const collector = new Collector(paths, {}, await listPackages(paths), await listImages(paths));
  return total(await collector.unusedPackages());
}

/**
 * Deletes unpacked packages without an image, unless an image is being made. Returns what was deleted.
 * @throws KilnError E_REMOVE
 */
export async function removeUnusedPackages(paths: StatePaths): Promise<UnusedPackages> {
  ensureStore(paths);
  await using lock = await tryLock(packagesLock(paths));
  if (lock === undefined) return total([]);
  const collector = new Collector(paths, {}, await listPackages(paths), await listImages(paths));
  const unused = await collector.unusedPackages();
  for (const { directory } of unused) {
    const trashed = await discard(paths, directory);
    if (trashed !== undefined) await removeTree(trashed);
  }
  return total(unused);
}

function total(packages: readonly ListedPackage[]): UnusedPackages {
  return { count: packages.length, bytes: packages.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/** Least recently used first. */
async function listPackages(paths: StatePaths): Promise<ListedPackage[]> {
  const listed: ListedPackage[] = [];
  for (const name of await readdir(paths.packages).catch(() => [])) {
    const directory = join(paths.packages, name);
    const file = entryFile(directory);
    const used = await stat(file).catch(() => undefined);
    const bytes = installedSize(directory);
    if (bytes === undefined) {
      // Nobody can use it, and the package is unpacked again when it is needed.
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
  readonly removed = { images: [] as string[], packages: 0 };
  readonly #paths: StatePaths;
  readonly #limits: GcLimits;
  #packages: readonly ListedPackage[];
  /** Least recently used first. */
  #images: readonly ListedImage[];

  constructor(
    paths: StatePaths,
    limits: GcLimits,
    packages: readonly ListedPackage[],
    images: readonly ListedImage[],
  ) {
    this.#paths = paths;
    this.#limits = limits;
    this.#packages = packages;
    this.#images = [...images].reverse();
  }

  async collect(): Promise<void> {
    const { maxAge = Number.POSITIVE_INFINITY, maxSize = Number.POSITIVE_INFINITY } = this.#limits;
    const oldest = Date.now() - maxAge;
    for (const image of this.#images) if (image.lastUse < oldest) await this.#removeImage(image);
    for (const unused of await this.unusedPackages()) {
      if (unused.lastUse < oldest) await this.#removePackage(unused);
    }
    await this.#shrink(maxSize);
  }

  async #shrink(maxSize: number): Promise<void> {
    const stubborn = new Set<ListedImage>();
    while (this.#size() > maxSize) {
      for (const unused of await this.unusedPackages()) {
        if (this.#size() > maxSize) await this.#removePackage(unused);
      }
      const next = this.#images.find((image) => !stubborn.has(image));
      if (next === undefined || this.#size() <= maxSize) return;
      if (!(await this.#removeImage(next))) stubborn.add(next);
    }
  }

  #size(): number {
    const own = this.#images.reduce((sum, { manifest }) => sum + manifest.ownBytes, 0);
    return this.#packages.reduce((sum, { bytes }) => sum + bytes, own);
  }

  /** Packages without an image: only deleting these frees space. */
  async unusedPackages(): Promise<ListedPackage[]> {
    const used = new Set<string>();
    for (const { manifest } of this.#images) {
      for (const digest of await this.#linked(manifest.id)) {
        used.add(packageDirectory(this.#paths, digest));
      }
    }
    return this.#packages.filter(({ directory }) => !used.has(directory));
  }

  /** The packages that an image links to; none for a removed or damaged image. */
  async #linked(id: string): Promise<readonly string[]> {
    try {
      return (await readContents(this.#paths, id)).linked;
    } catch (error) {
      if (error instanceof KilnError && error.code === 'E_IMAGE_MISSING') return [];
      throw error;
    }
  }

  async #removePackage(unused: ListedPackage): Promise<void> {
    await discard(this.#paths, unused.directory);
    this.#packages = this.#packages.filter((other) => other !== unused);
    this.removed.packages++;
  }

  /** False if the image is in use. */
  async #removeImage(image: ListedImage): Promise<boolean> {
    try {
      await removeImage(this.#paths, image.manifest.id);
    } catch (error) {
      if (error instanceof KilnError && error.code === 'E_IMAGE_IN_USE') return false;
      if (!(error instanceof KilnError && error.code === 'E_IMAGE_MISSING')) throw error;
    }
    this.#images = this.#images.filter((other) => other !== image);
    this.removed.images.push(image.manifest.id);
    return true;
  }
}
