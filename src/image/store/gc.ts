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
  // The maker of an image holds this lock: its packages have no image yet that would keep them.
  await using lock = await tryLock(packagesLock(paths));
  const packages = lock === undefined ? [] : await listPackages(paths, { mends: !dryRun });
  const collector = new Collector(paths, limits, packages, await listImages(paths));
  await collector.collect();
  const { images, packages: count, bytes } = collector.removed;
  const failures: KilnError[] = [];
  const trees = dryRun ? 0 : await emptyTrash(paths, (error) => failures.push(error));
  return { images, packages: count, bytes, trees, failures };
}

interface Amount {
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
  const packages = await listPackages(paths, { mends: false });
  const images = await listImages(paths);
  const own = (listed: readonly ListedImage[]) =>
    total(listed.map(({ manifest }) => ({ bytes: manifest.ownBytes })));
  return {
    images: own(images),
    imagesNotInUse: own(images.filter(({ inUse }) => !inUse)),
    packages: total(packages),
    packagesWithoutImage: total(await new Collector(paths, {}, packages, images).unusedPackages()),
  };
}

interface ListedPackage {
  readonly directory: string;
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly lastUse: number;
}

export async function unusedPackages(paths: StatePaths): Promise<Amount> {
  return total(await listUnused(paths));
}

async function listUnused(paths: StatePaths): Promise<ListedPackage[]> {
  const packages = await listPackages(paths, { mends: true });
  return await new Collector(paths, {}, packages, await listImages(paths)).unusedPackages();
}

/** Unless an image is being made. Returns what was deleted. @throws KilnError E_REMOVE */
export async function removeUnusedPackages(paths: StatePaths): Promise<Amount> {
  ensureStore(paths);
  await using lock = await tryLock(packagesLock(paths));
  if (lock === undefined) return total([]);
  const unused = await listUnused(paths);
  for (const { directory } of unused) {
    const trashed = await discard(paths, directory);
    if (trashed !== undefined) await removeTree(trashed);
  }
  return total(unused);
}

function total(packages: readonly { readonly bytes: number }[]): Amount {
  return { count: packages.length, bytes: packages.reduce((sum, { bytes }) => sum + bytes, 0) };
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
  #packages: readonly ListedPackage[];
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

  async unusedPackages(): Promise<ListedPackage[]> {
    const used = new Set<string>();
    for (const { manifest } of this.#images) {
      for (const digest of await this.#linked(manifest.id)) {
        used.add(packageDirectory(this.#paths, digest));
      }
    }
    return this.#packages.filter(({ directory }) => !used.has(directory));
  }

  async #linked(id: string): Promise<readonly string[]> {
    try {
      return (await readContents(this.#paths, id)).linked;
    } catch (error) {
      if (error instanceof KilnError && error.code === 'E_IMAGE_MISSING') return [];
      throw error;
    }
  }

  async #removePackage(unused: ListedPackage): Promise<void> {
    if (this.#limits.dryRun !== true) await discard(this.#paths, unused.directory);
    this.#packages = this.#packages.filter((other) => other !== unused);
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
    this.#images = this.#images.filter((other) => other !== image);
    this.removed.images.push(image.manifest.id);
    this.removed.bytes += image.manifest.ownBytes;
    return true;
  }
}
