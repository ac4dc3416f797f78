import { readdirSync, utimesSync } from 'node:fs';
import { readdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { acquireLock, type HeldLock, tryLock } from '../../kernel/flock.ts';
import { hasErrno } from '../../kernel/libc.ts';
import type { StatePaths } from '../../state/paths.ts';
import { type ImageManifest, imageDirectory, imageFiles, readManifest } from './manifest.ts';
import { discard } from './trash.ts';

/** An id is found by its beginning from this many digits on. */
const SHORTEST_PREFIX = 4;

/** An image that nobody can delete until this is disposed of. */
export interface LeasedImage extends AsyncDisposable {
  readonly manifest: ImageManifest;
  /** The root directory on the host. */
  readonly tree: string;
}

/** An image as `kiln image ls` shows it. */
export interface ListedImage {
  readonly manifest: ImageManifest;
  /** Milliseconds since 1970. */
  readonly lastUse: number;
  readonly inUse: boolean;
}

/**
 * Takes an image into use: undefined if there is none that can be used. The lease ends with this
 * process, however it dies; a box that outlives it holds the image by its box.json.
 */
export async function leaseImage(paths: StatePaths, id: string): Promise<LeasedImage | undefined> {
  const directory = imageDirectory(paths, id);
  const lock = await lockLease(directory, true);
  if (lock === undefined) return undefined;
  const manifest = readManifest(paths, id);
  if (manifest === undefined) {
    await lock.release();
    return undefined;
  }
  const now = new Date();
  utimesSync(imageFiles.lease(directory), now, now);
  return {
    manifest,
    tree: imageFiles.tree(directory),
    [Symbol.asyncDispose]: () => lock.release(),
  };
}

/** All usable images, the one used last first. */
export async function listImages(paths: StatePaths): Promise<ListedImage[]> {
  const held = await heldImages(paths);
  const images: ListedImage[] = [];
  for (const id of imageIds(paths)) {
    const manifest = readManifest(paths, id);
    if (manifest === undefined) continue;
    const directory = imageDirectory(paths, id);
    const lastUse = await stat(imageFiles.lease(directory)).then(
      (lease) => lease.mtimeMs,
      () => manifest.created,
    );
    images.push({ manifest, lastUse, inUse: held.has(id) || (await isLeased(directory)) });
  }
  return images.sort((a, b) => b.lastUse - a.lastUse);
}

/**
 * The id that begins with `prefix`.
 * @throws KilnError E_IMAGE_AMBIGUOUS. Undefined if there is none, or if it is too short to tell.
 */
export async function findImage(paths: StatePaths, prefix: string): Promise<string | undefined> {
  if (!/^[0-9a-f]+$/.test(prefix) || prefix.length < SHORTEST_PREFIX) return undefined;
  const found = imageIds(paths).filter((id) => id.startsWith(prefix));
  if (found.length > 1) {
    throw new KilnError('E_IMAGE_AMBIGUOUS', `${found.length} images begin with ${prefix}`, {
      hint: `give more digits: ${found.map((id) => id.slice(0, prefix.length + 6)).join(', ')}`,
    });
  }
  return found[0];
}

/** A whole id: a sha256 in hex. */
const IMAGE_ID = /^[0-9a-f]{64}$/;

function noImage(id: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `there is no image ${id === '' ? '""' : id}`, {
    hint: '`kiln image ls` lists them',
  });
}

/** The usable images of this name, the newest first. */
export async function imagesNamed(paths: StatePaths, name: string): Promise<ImageManifest[]> {
  const manifests = imageIds(paths).map((id) => readManifest(paths, id));
  return manifests
    .filter((manifest) => manifest !== undefined)
    .filter((manifest) => manifest.name === name)
    .sort((a, b) => b.created - a.created);
}

/**
 * Deletes an image. Its tree goes to the trash.
 * @returns where it lies there
 * @throws KilnError E_IMAGE_IN_USE; E_IMAGE_MISSING.
 */
export async function removeImage(paths: StatePaths, id: string): Promise<string | undefined> {
  // The id becomes a path: an empty one would mean the folder of all images.
  if (!IMAGE_ID.test(id)) throw noImage(id);
  const directory = imageDirectory(paths, id);
  const lock = await lockLease(directory, false, async () => {
    throw inUse(id, 'a running command');
  });
  if (lock === undefined) throw noImage(id);
  try {
    // Whoever puts an image into a box holds a lease until the box says so itself.
    const holder = (await heldImages(paths)).get(id);
    if (holder !== undefined) throw inUse(id, holder);
    return await discard(paths, directory);
  } finally {
    await lock.release();
  }
}

/** Throws away images that cannot be used: unsynced ones of an earlier boot, other formats. */
export async function sweepImages(paths: StatePaths): Promise<void> {
  for (const id of imageIds(paths)) {
    if (readManifest(paths, id) !== undefined) continue;
    const directory = imageDirectory(paths, id);
    const lock = await lockLease(directory, false, async () => undefined);
    if (lock === undefined) continue;
    if (readManifest(paths, id) === undefined) await discard(paths, directory);
    await lock.release();
  }
}

/** Puts a finished folder in its place; what lies there is a broken image. */
export async function publishImage(paths: StatePaths, id: string, made: string): Promise<void> {
  const directory = imageDirectory(paths, id);
  await discard(paths, directory);
  await rename(made, directory);
}

/** Ids of the images that boxes have in use, or roots or services are made of, and one such user of each. */
async function heldImages(paths: StatePaths): Promise<Map<string, string>> {
  const images = new Map<string, string>();
  const note = async (folder: string, file: string, what: string) => {
    for (const name of await readdir(folder).catch(() => [])) {
      const text = await readFile(join(folder, name, file), 'utf8').catch(() => '{}');
      const { image } = JSON.parse(text) as { image?: string };
      if (image !== undefined) images.set(image, `${what} ${name}`);
    }
  };
  await note(paths.roots, 'root.json', 'the root');
  await note(paths.boxes, 'box.json', 'the box');
  await note(paths.services, 'image.json', 'the service');
  return images;
}

function imageIds(paths: StatePaths): string[] {
  try {
    return readdirSync(paths.images).filter((name) => /^[0-9a-f]{64}$/.test(name));
  } catch {
    return [];
  }
}

async function isLeased(directory: string): Promise<boolean> {
  const lock = await tryLock(imageFiles.lease(directory)).catch(() => undefined);
  await lock?.release();
  return lock === undefined;
}

/**
 * Locks an image's lease; undefined if there is no such image. Whoever holds an exclusive lock is
 * deleting, which is over soon: a shared one waits for that. `busy` decides for an exclusive one.
 */
async function lockLease(
  directory: string,
  shared: boolean,
  busy?: () => Promise<undefined>,
): Promise<HeldLock | undefined> {
  try {
    const path = imageFiles.lease(directory);
    if (shared) return await acquireLock(path, { shared });
    return (await tryLock(path)) ?? (await busy?.());
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
}

function inUse(id: string, by: string): KilnError {
  return new KilnError('E_IMAGE_IN_USE', `image ${id.slice(0, 12)} is in use by ${by}`, {
    hint: '`kiln ps` shows what runs; try again when it is over. `kiln-mock --clean` removes a root',
    details: { image: id },
  });
}
