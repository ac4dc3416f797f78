/**
 * Whose images are. An image's files are shared by all who have made it, or brought it: each of them has proved to
 * have its content. A name is its owner's alone, and says nothing to others.
 *
 * A file `owner-UID.json` in an image's folder is one owner. An image without any is root's: it is older than these.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { type ImageManifest, imageDirectory, readManifest } from './manifest.ts';

export const ROOT = 0;

/** What an owner calls an image. */
export interface ImageOwner {
  readonly name: string;
  /** Made with a login or a certificate: not for whoever else may see its owner’s images. */
  readonly private: boolean;
}

/** Who looks for images, if not root; a sandbox’s owner is one. */
export interface ImageViewer {
  readonly uid: number;
  /** Whether this user may use an image of root’s. */
  seesOfRoot(image: ImageOwner): boolean;
}

const FILE = /^owner-(\d+)\.json$/;

function ownerFile(directory: string, uid: number): string {
  return join(directory, `owner-${uid}.json`);
}

/** Writes the first owner of an image into its folder, before anybody else sees that. */
export function writeOwner(directory: string, uid: number, owner: ImageOwner): void {
  writeRecord(ownerFile(directory, uid), owner);
}

const takeOwner = withFields<ImageOwner>({ name: 'string', private: 'boolean' });

/** By their uids. Of a damaged file nobody learns whose it was: it counts for nothing. */
export function ownersOf(paths: StatePaths, { id, name }: ImageManifest): Map<number, ImageOwner> {
  const owners = new Map<number, ImageOwner>();
  let files = 0;
  for (const file of readdirSync(imageDirectory(paths, id))) {
    const uid = FILE.exec(file)?.[1];
    if (uid === undefined) continue;
    files++;
    const path = join(imageDirectory(paths, id), file);
    const { value, damage } = findRecord(path, takeOwner);
    if (damage !== undefined)
      tellDamage({ path, why: damage.why, done: 'the image has an owner less' });
    if (value !== undefined) owners.set(Number(uid), value);
  }
  if (files === 0) owners.set(ROOT, { name, private: false });
  return owners;
}

/** What a viewer calls an image; undefined where there is none for them. */
export function nameFor(
  paths: StatePaths,
  manifest: ImageManifest,
  viewer: ImageViewer | undefined,
): string | undefined {
  const owners = ownersOf(paths, manifest);
  const roots = owners.get(ROOT);
  if (viewer === undefined) return roots?.name;
  const own = owners.get(viewer.uid)?.name;
  return own ?? (roots !== undefined && viewer.seesOfRoot(roots) ? roots.name : undefined);
}

/** Makes somebody an owner of an image, which the caller has leased. */
export function ownImage(paths: StatePaths, id: string, uid: number, owner: ImageOwner): void {
  const manifest = readManifest(paths, id);
  if (manifest === undefined) return;
  const owners = ownersOf(paths, manifest);
  // One without a file is root's, and stays so.
  const roots = owners.get(ROOT);
  const directory = imageDirectory(paths, id);
  if (uid !== ROOT && roots !== undefined && !existsSync(ownerFile(directory, ROOT)))
    writeOwner(directory, ROOT, roots);
  const known = owners.get(uid);
  if (known?.name === owner.name && known.private === owner.private) return;
  writeOwner(directory, uid, owner);
}

/** Takes an owner away from an image that is locked for that. @returns whether it has others still */
export function disownImage(paths: StatePaths, manifest: ImageManifest, uid: number): boolean {
  const owners = ownersOf(paths, manifest);
  owners.delete(uid);
  if (owners.size === 0) return false;
  rmSync(ownerFile(imageDirectory(paths, manifest.id), uid), { force: true });
  return true;
}
