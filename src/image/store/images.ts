import { randomBytes } from 'node:crypto';
import { readdirSync, utimesSync } from 'node:fs';
import { readdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { acquireLock, type HeldLock, tryLock } from '../../host/files/flock.ts';
import { findRecord } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { sandboxFiles } from '../../sandbox/domain/sandbox-record.ts';
import { type ImageManifest, imageDirectory, imageFiles, readManifest } from './manifest.ts';
import { disownImage, type ImageViewer, nameFor } from './owners.ts';
import { discard } from './work-directory.ts';

/** The least digits of the beginning of an id. */
const SHORTEST_PREFIX = 4;

/** An image that cannot be deleted until this is disposed of. */
export interface LeasedImage extends AsyncDisposable {
  readonly manifest: ImageManifest;
  /** The root directory on the host. */
  readonly tree: string;
}

/** Where images are looked for, and who looks; undefined: root. */
export interface ImagePlace {
  readonly paths: StatePaths;
  readonly owner: ImageViewer | undefined;
}

/** An image as `kiln image ls` shows it. */
export interface ListedImage {
  readonly manifest: ImageManifest;
  /** Milliseconds since 1970. */
  readonly lastUse: number;
  readonly inUse: boolean;
}

/**
 * Leases an image; undefined if there is none that can be used. The lease ends with this process, even if it is
 * killed; a sandbox that outlives the process holds the image through its sandbox.json.
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

/** All usable images, most recently used first. */
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
    images.push({
      manifest,
      lastUse,
      inUse: held.holder(id) !== undefined || (await isLeased(directory)),
    });
  }
  return images.sort((a, b) => b.lastUse - a.lastUse);
}

/** Those that a user sees, under the user’s names for them; root sees all. */
export async function visibleImages({ paths, owner }: ImagePlace): Promise<ListedImage[]> {
  const images = await listImages(paths);
  return images.flatMap(({ manifest, ...image }) => {
    const seen = seenBy({ paths, owner }, manifest) ?? (owner === undefined ? manifest : undefined);
    return seen === undefined ? [] : [{ manifest: seen, ...image }];
  });
}

/** An image under the name that it has for who looks; undefined where there is none for them. */
function seenBy({ paths, owner }: ImagePlace, manifest: ImageManifest): ImageManifest | undefined {
  const name = nameFor(paths, manifest, owner);
  return name === undefined ? undefined : { ...manifest, name };
}

/**
 * The id that begins with `prefix`, of an image that `owner` sees. Undefined if there is none, or if the prefix is
 * too short.
 * @throws KilnError E_IMAGE_AMBIGUOUS
 */
export async function findImage(
  { paths, owner }: ImagePlace,
  prefix: string,
): Promise<string | undefined> {
  if (!/^[0-9a-f]+$/.test(prefix) || prefix.length < SHORTEST_PREFIX) return undefined;
  const found = imageIds(paths).filter((id) => {
    if (!id.startsWith(prefix)) return false;
    if (owner === undefined) return true;
    const manifest = readManifest(paths, id);
    return manifest !== undefined && seenBy({ paths, owner }, manifest) !== undefined;
  });
  if (found.length > 1) {
    throw new KilnError('E_IMAGE_AMBIGUOUS', `${found.length} images begin with ${prefix}`, {
      hint: `give more digits: ${found.map((id) => id.slice(0, prefix.length + 6)).join(', ')}`,
    });
  }
  return found[0];
}

function noImage(id: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `there is no image ${id === '' ? '""' : id}`, {
    hint: '`kiln image ls` lists them',
  });
}

/** The usable images that are called so by who looks, the newest first. Names of others mean nothing. */
export async function imagesNamed(place: ImagePlace, name: string): Promise<ImageManifest[]> {
  const manifests = imageIds(place.paths).map((id) => readManifest(place.paths, id));
  return manifests
    .filter((manifest) => manifest !== undefined)
    .map((manifest) => seenBy(place, manifest))
    .filter((manifest) => manifest?.name === name)
    .filter((manifest) => manifest !== undefined)
    .sort((a, b) => b.created - a.created);
}

/**
 * Deletes an image. Its tree goes to the trash. Where it has other owners than `uid`, only that owner leaves.
 * @returns where it lies there
 * @throws KilnError E_IMAGE_IN_USE; E_IMAGE_MISSING.
 */
export async function removeImage(
  paths: StatePaths,
  id: string,
  uid?: number,
): Promise<string | undefined> {
  // The id becomes part of a path: an empty one would mean the folder of all images.
  if (!ID.test(id)) throw noImage(id);
  const directory = imageDirectory(paths, id);
  const lock = await lockLease(directory, false, async () => {
    throw inUse(id, 'a running command');
  });
  if (lock === undefined) throw noImage(id);
  try {
    const manifest = uid === undefined ? undefined : readManifest(paths, id);
    if (uid !== undefined && manifest !== undefined && disownImage(paths, manifest, uid))
      return undefined;
    // A lease covers the time until the sandbox's own record names the image.
    const holder = (await heldImages(paths)).holder(id);
    if (holder !== undefined) throw inUse(id, holder);
    return await discard(paths, directory);
  } finally {
    await lock.release();
  }
}

/**
 * Removes images that cannot be used (damaged ones, unsynced ones of an earlier boot, other formats), except
 * those in sandboxes.
 */
export async function sweepImages(paths: StatePaths): Promise<void> {
  const broken = imageIds(paths).filter((id) => readManifest(paths, id) === undefined);
  const replaced = folderNames(paths).filter((name) => REPLACED.test(name));
  if (broken.length === 0 && replaced.length === 0) return;
  const held = await heldImages(paths);
  for (const name of [...broken, ...replaced]) {
    const id = name.slice(0, ID_LENGTH);
    if (held.inSandbox(id)) continue;
    const directory = join(paths.images, name);
    const lock = await lockLease(directory, false, async () => undefined);
    if (lock === undefined) continue;
    if (name !== id || readManifest(paths, id) === undefined) await discard(paths, directory);
    await lock.release();
  }
}

/**
 * Moves a finished folder to its place. A broken image in that place is kept under another name while a sandbox
 * uses its files.
 */
export async function publishImage(paths: StatePaths, id: string, made: string): Promise<void> {
  const directory = imageDirectory(paths, id);
  const there = folderNames(paths).includes(id);
  if (there && ((await heldImages(paths)).inSandbox(id) || (await isLeased(directory)))) {
    await rename(directory, `${directory}${replacedSuffix()}`);
  } else {
    await discard(paths, directory);
  }
  await rename(made, directory);
}

/** Images that are in use without a lease: by sandboxes, roots and services. */
class HeldImages {
  readonly #holders = new Map<string, string>();
  readonly #sandboxed = new Set<string>();
  #unknown: string | undefined;

  add(image: string, holder: string, inSandbox: boolean): void {
    this.#holders.set(image, holder);
    if (inSandbox) this.#sandboxed.add(image);
  }

  /** Adds a sandbox whose image is unknown: it may be any. */
  addUnknown(holder: string): void {
    this.#unknown = holder;
  }

  /** A user of this image. */
  holder(id: string): string | undefined {
    return this.#holders.get(id) ?? this.#unknown;
  }

  /** Whether a sandbox has the image, or may have it: then its files are in use. */
  inSandbox(id: string): boolean {
    return this.#sandboxed.has(id) || this.#unknown !== undefined;
  }
}

async function heldImages(paths: StatePaths): Promise<HeldImages> {
  const images = new HeldImages();
  const note = async (folder: string, file: string, what: string) => {
    const inSandbox = folder === paths.sandboxes;
    for (const name of await readdir(folder).catch(() => [])) {
      const holder = `${what} ${name}`;
      const { value, damage } = findRecord<{ image?: string }>(join(folder, name, file));
      if (value?.image !== undefined) images.add(value.image, holder, inSandbox);
      if (damage === undefined) continue;
      // A sandbox without an owner uses nothing; the next sweep removes it.
      if (inSandbox && (await staysOwned(join(folder, name)))) images.addUnknown(holder);
      const done = `nobody knows which image ${holder} has`;
      tellDamage({ path: damage.path, why: damage.why, done });
    }
  };
  await note(paths.roots, 'root.json', 'the root');
  await note(paths.sandboxes, 'sandbox.json', 'the sandbox');
  await note(paths.services, 'image.json', 'the service');
  return images;
}

/** How long a sweep may hold a sandbox's lock while it removes the sandbox, milliseconds. */
const REMOVAL = 3000;

/** Whether a sandbox's lock is held by an owner, not by a sweep that removes it. */
async function staysOwned(sandbox: string): Promise<boolean> {
  for (
    const end = performance.now() + REMOVAL;
    await isLocked(sandboxFiles.lock(sandbox));
    await sleep(100)
  ) {
    if (performance.now() > end) return true;
  }
  return false;
}

/** Digits of an id, a sha256 in hex. */
const ID_LENGTH = 64;
const ID = /^[0-9a-f]{64}$/;
/** A broken image that was in use when the image was made again. */
const REPLACED = /^[0-9a-f]{64}\.replaced-[0-9a-f]+$/;

function replacedSuffix(): string {
  return `.replaced-${randomBytes(4).toString('hex')}`;
}

function imageIds(paths: StatePaths): string[] {
  return folderNames(paths).filter((name) => ID.test(name));
}

function folderNames(paths: StatePaths): string[] {
  try {
    return readdirSync(paths.images);
  } catch {
    return [];
  }
}

function isLeased(directory: string): Promise<boolean> {
  return isLocked(imageFiles.lease(directory));
}

async function isLocked(path: string): Promise<boolean> {
  const lock = await tryLock(path).catch(() => undefined);
  await lock?.release();
  return lock === undefined;
}

/**
 * Locks an image's lease; undefined if there is no such image. An exclusive lock means that the image is being
 * deleted, so a shared lock waits a moment. For an exclusive lock, `busy` decides what happens if it is held.
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
