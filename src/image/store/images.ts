import { randomBytes } from 'node:crypto';
import { readdirSync, utimesSync } from 'node:fs';
import { readdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageViewer } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import {
  acquireLock,
  type HeldLock,
  isLocked,
  lockUnlessHeld,
  tryLock,
  unlessGone,
} from '../../host/files/flock.ts';
import { until } from '../../host/process/process.ts';
import { findRecord } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { sandboxFiles } from '../../sandbox/domain/sandbox-record.ts';
import { settleDamage } from './damage.ts';
import {
  disownImage,
  type ImageManifest,
  imageDirectory,
  imageFiles,
  imageIds,
  isImageId,
  nameFor,
  namesFor,
  readManifest,
} from './manifest.ts';
import { knownDamage } from './mark.ts';
import { discard, publishLock } from './work-directory.ts';

const SHORTEST_PREFIX = 4;

/** Cannot be deleted until this is disposed of. */
export interface LeasedImage extends AsyncDisposable {
  readonly manifest: ImageManifest;
  readonly tree: string;
}

export interface ImagePlace {
  readonly paths: StatePaths;
  readonly owner: ImageViewer | undefined;
}

export interface ListedImage {
  readonly manifest: ImageManifest;
  /** Milliseconds since 1970. */
  readonly lastUse: number;
  readonly inUse: boolean;
}

/**
 * Undefined if there is none that can be used. The lease ends with this process; a sandbox that outlives it
 * holds the image by its sandbox.json.
 */
export async function leaseImage(paths: StatePaths, id: string): Promise<LeasedImage | undefined> {
  await settleDamage(paths);
  const directory = imageDirectory(paths, id);
  const lock = await unlessGone(acquireLock(imageFiles.lease(directory), { shared: true }));
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

export async function listImages(paths: StatePaths): Promise<ListedImage[]> {
  const held = await heldImages(paths);
  const images: ListedImage[] = [];
  for (const id of imageIds(paths)) {
    const manifest = readManifest(paths, id);
    if (manifest === undefined) continue;
    const lease = imageFiles.lease(imageDirectory(paths, id));
    const lastUse = (await stat(lease).catch(() => undefined))?.mtimeMs ?? manifest.created;
    const inUse = held.holder(id) !== undefined || (await isLocked(lease));
    images.push({ manifest, lastUse, inUse });
  }
  return images.sort((a, b) => b.lastUse - a.lastUse);
}

export async function visibleImages({ paths, owner }: ImagePlace): Promise<ListedImage[]> {
  const images = await listImages(paths);
  return images.flatMap(({ manifest, ...image }) => {
    const seen = seenBy({ paths, owner }, manifest) ?? (owner === undefined ? manifest : undefined);
    return seen === undefined ? [] : [{ manifest: seen, ...image }];
  });
}

function seenBy({ paths, owner }: ImagePlace, manifest: ImageManifest): ImageManifest | undefined {
  const name = nameFor(paths, manifest, owner);
  return name === undefined ? undefined : { ...manifest, name };
}

export async function findImage(
  { paths, owner }: ImagePlace,
  prefix: string,
): Promise<string | undefined> {
  if (!/^[0-9a-f]+$/.test(prefix) || prefix.length < SHORTEST_PREFIX) return undefined;
  const found = imageIds(paths).filter((id) => {
    if (!id.startsWith(prefix)) return false;
    const manifest = owner && readManifest(paths, id);
    return owner === undefined || (manifest && seenBy({ paths, owner }, manifest) !== undefined);
  });
  if (found.length > 1) {
    throw new KilnError('E_IMAGE_AMBIGUOUS', `${found.length} images begin with ${prefix}`, {
      hint: `give more digits: ${found.map((id) => id.slice(0, prefix.length + 6)).join(', ')}`,
    });
  }
  return found[0];
}

function noImageError(id: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `there is no image ${id === '' ? '""' : id}`, {
    hint: '`kiln image ls` lists them',
  });
}

export async function imagesNamed(place: ImagePlace, name: string): Promise<ImageManifest[]> {
  const named = imageIds(place.paths).flatMap((id) => {
    // Without its manifest, which is larger: others may have many images.
    if (!namesFor(place.paths, { id }, place.owner).includes(name)) return [];
    const manifest = readManifest(place.paths, id);
    return manifest === undefined ? [] : [{ ...manifest, name }];
  });
  return named.sort((a, b) => b.created - a.created);
}

/**
 * Where it has other owners than `uid`, only that owner leaves.
 * @returns where its tree lies in the trash
 * @throws KilnError E_IMAGE_IN_USE; E_IMAGE_MISSING
 */
export async function removeImage(
  paths: StatePaths,
  id: string,
  uid?: number,
): Promise<string | undefined> {
  // The id becomes part of a path: an empty one would mean the folder of all images.
  if (!isImageId(id)) throw noImageError(id);
  const directory = imageDirectory(paths, id);
  await using lock = await unlessGone(lockUnused(imageFiles.lease(directory), id));
  if (lock === undefined) throw noImageError(id);
  const manifest = uid === undefined ? undefined : readManifest(paths, id);
  if (uid !== undefined && manifest && disownImage(paths, manifest, uid)) return undefined;
  // A lease covers the time until the sandbox's own record names the image.
  const holder = (await heldImages(paths)).holder(id);
  if (holder !== undefined) throw inUseError(id, holder);
  return await discard(paths, directory);
}

/**
 * Removes an image that was idle when it was listed, unless it is in use by now. Another call may be faster.
 * @returns whether the image is gone, and where its tree lies in the trash
 */
export async function removeIdleImage(
  paths: StatePaths,
  id: string,
  uid?: number,
): Promise<{ readonly gone: boolean; readonly tree?: string | undefined }> {
  try {
    return { gone: true, tree: await removeImage(paths, id, uid) };
  } catch (error) {
    const code = error instanceof KilnError ? error.code : undefined;
    if (code !== 'E_IMAGE_IN_USE' && code !== 'E_IMAGE_MISSING') throw error;
    return { gone: code === 'E_IMAGE_MISSING' };
  }
}

export async function sweepImages(paths: StatePaths): Promise<void> {
  const broken = imageIds(paths).filter((id) => readManifest(paths, id) === undefined);
  const replaced = folderNames(paths).filter((name) => REPLACED.test(name));
  if (broken.length === 0 && replaced.length === 0) return;
  const held = await heldImages(paths);
  for (const name of [...broken, ...replaced]) {
    const id = name.slice(0, ID_LENGTH);
    const directory = join(paths.images, name);
    if (held.inSandbox(id)) continue;
    // All but some files of it are good, and the service says when it gets another.
    if (name === id && knownDamage(directory) && held.service(id) !== undefined) continue;
    const lock = await unlessGone(tryLock(imageFiles.lease(directory)));
    if (lock === undefined) continue;
    if (name !== id || readManifest(paths, id) === undefined) await discard(paths, directory);
    await lock.release();
  }
}

/**
 * Leases the new image, or the one that another caller has made meanwhile. A broken one in its place is kept under
 * another name while a sandbox uses its files.
 */
export async function publishImage(
  paths: StatePaths,
  id: string,
  made: string,
): Promise<LeasedImage> {
  await using _published = await acquireLock(publishLock(paths));
  const others = await leaseImage(paths, id);
  if (others !== undefined) return others;
  const directory = imageDirectory(paths, id);
  const isUsed = async () =>
    (await heldImages(paths)).inSandbox(id) || (await isLocked(imageFiles.lease(directory)));
  if (folderNames(paths).includes(id) && (await isUsed())) {
    await rename(directory, `${directory}.replaced-${randomBytes(4).toString('hex')}`);
  } else {
    await discard(paths, directory);
  }
  await rename(made, directory);
  const leased = await leaseImage(paths, id);
  if (leased !== undefined) return leased;
  throw new KilnError('E_IMAGE_MISSING', `image ${id} was deleted as soon as it was made`, {
    hint: 'another call of kiln deleted it: try again',
  });
}

export interface HeldImages {
  holder(id: string): string | undefined;
  inSandbox(id: string): boolean;
  /** The id of a sandbox, and the name of a service, that has it. */
  sandbox(id: string): string | undefined;
  service(id: string): string | undefined;
}

export async function heldImages(paths: StatePaths): Promise<HeldImages> {
  const holders = new Map<string, string>();
  const sandboxed = new Map<string, string>();
  const services = new Map<string, string>();
  let unknown: string | undefined;
  const note = async (folder: string, file: string, what: string) => {
    const inSandbox = folder === paths.sandboxes;
    for (const name of await readdir(folder).catch(() => [])) {
      const holder = `${what} ${name}`;
      const { value, damage } = findRecord<{ image?: string }>(join(folder, name, file));
      if (value?.image !== undefined) {
        holders.set(value.image, holder);
        if (inSandbox) sandboxed.set(value.image, name);
        if (folder === paths.services) services.set(value.image, name);
      }
      if (damage === undefined) continue;
      // A sandbox without an owner uses nothing; the next sweep removes it.
      if (inSandbox && (await staysOwned(join(folder, name)))) unknown = holder;
      const done = `nobody knows which image ${holder} has`;
      tellDamage({ path: damage.path, why: damage.why, done });
    }
  };
  await note(paths.roots, 'root.json', 'the root');
  await note(paths.sandboxes, 'sandbox.json', 'the sandbox');
  await note(paths.snapshots, 'snapshot.json', 'the snapshot');
  await note(paths.services, 'image.json', 'the service');
  // An upgrade that fails, or whose maker died, goes back to it.
  await note(paths.services, 'previous/image.json', 'the service');
  return {
    holder: (id) => holders.get(id) ?? unknown,
    inSandbox: (id) => sandboxed.has(id) || unknown !== undefined,
    sandbox: (id) => sandboxed.get(id),
    service: (id) => services.get(id),
  };
}

/** Milliseconds that a sweep may hold a sandbox's lock while it removes the sandbox, on a machine that is busy. */
const REMOVAL = 15_000;

async function staysOwned(sandbox: string): Promise<boolean> {
  return !(await until(async () => !(await isLocked(sandboxFiles.lock(sandbox))), REMOVAL, 100));
}

const ID_LENGTH = 64;
const REPLACED = /^[0-9a-f]{64}\.replaced-[0-9a-f]+$/;

function folderNames(paths: StatePaths): string[] {
  return attempt(() => readdirSync(paths.images)) ?? [];
}

/** An exclusive lock means that the image is being deleted: a shared one waits. */
async function lockUnused(lease: string, id: string): Promise<HeldLock> {
  const held = await lockUnlessHeld(lease);
  if (held === undefined) throw inUseError(id, 'a running command');
  return held;
}

function inUseError(id: string, by: string): KilnError {
  return new KilnError('E_IMAGE_IN_USE', `image ${id.slice(0, 12)} is in use by ${by}`, {
    hint: '`kiln ps` and `kiln service list` show what runs; a service holds its image until it is deleted or upgraded, `kiln-mock --clean` removes a root',
    details: { image: id },
  });
}
