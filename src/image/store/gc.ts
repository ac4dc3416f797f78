import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { tryLock } from '../../kernel/flock.ts';
import type { StatePaths } from '../../state/paths.ts';
import { readContents } from './contents.ts';
import { listImages, removeImage, sweepImages } from './images.ts';
import { packageDirectory } from './packages.ts';
import { discard, emptyTrash } from './trash.ts';
import { ensureStore, lockFile, sweepWorkDirectories } from './work-directory.ts';

/** What may stay. */
export interface GcLimits {
  /** Bytes of all images, each counted with what it shares; undefined is no limit. */
  readonly maxSize?: number;
  /** Milliseconds since the last use; undefined is no limit. */
  readonly maxAge?: number;
}

/** What went. */
export interface GcReport {
  /** Ids. */
  readonly images: readonly string[];
  /** Unpacked packages that no image is made of any more. */
  readonly packages: number;
  /** Trees that were deleted for good. */
  readonly trees: number;
}

/**
 * Removes images beyond the limits, the one used last longest ago first, never one in use; then
 * unpacked packages that no image is left for; then everything thrown away earlier.
 */
export async function collectGarbage(paths: StatePaths, limits: GcLimits): Promise<GcReport> {
  await ensureStore(paths);
  await sweepWorkDirectories(paths);
  await sweepImages(paths);
  const images = await removeImages(paths, limits);
  const packages =
    limits.maxAge === undefined && limits.maxSize === undefined ? 0 : await removePackages(paths);
  return { images, packages, trees: await emptyTrash(paths) };
}

async function removeImages(paths: StatePaths, limits: GcLimits): Promise<string[]> {
  const removed: string[] = [];
  let kept = 0;
  for (const { manifest, lastUse, inUse } of await listImages(paths)) {
    const old = limits.maxAge !== undefined && Date.now() - lastUse > limits.maxAge;
    const large = limits.maxSize !== undefined && kept + manifest.bytes > limits.maxSize;
    if (inUse || (!old && !large)) {
      kept += manifest.bytes;
      continue;
    }
    try {
      await removeImage(paths, manifest.id);
      removed.push(manifest.id);
    } catch (error) {
      // Somebody has just taken it into use, or removed it.
      if (!(error instanceof KilnError)) throw error;
      kept += manifest.bytes;
    }
  }
  return removed;
}

/** A package's tree is only worth its space while an image may be built of it again. */
async function removePackages(paths: StatePaths): Promise<number> {
  const needed = new Set<string>();
  for (const { manifest } of await listImages(paths)) {
    const { linked } = await readContents(paths, manifest.id);
    for (const digest of linked) needed.add(packageDirectory(paths, digest));
  }
  let count = 0;
  for (const name of await readdir(paths.packages).catch(() => [])) {
    const directory = join(paths.packages, name);
    if (needed.has(directory)) continue;
    // A build that is under way may be about to use it: it was made or used a moment ago.
    const { ctimeMs } = await stat(directory).catch(() => ({ ctimeMs: Date.now() }));
    if (Date.now() - ctimeMs < 3_600_000 && (await buildUnderWay(paths))) continue;
    await discard(paths, directory);
    count++;
  }
  return count;
}

async function buildUnderWay(paths: StatePaths): Promise<boolean> {
  const locks = (await readdir(join(paths.store, 'locks')).catch(() => [])).filter((name) =>
    name.startsWith('image-'),
  );
  for (const name of locks) {
    const lock = await tryLock(lockFile(paths, name)).catch(() => undefined);
    if (lock === undefined) return true;
    await lock.release();
  }
  return false;
}
