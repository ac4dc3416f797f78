import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageViewer } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { attempt, unlessErrno } from '../../host/calls/libc.ts';
import {
  type FoundRecord,
  findRecord,
  withFields,
  writeRecord,
} from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { Lock } from '../../packages/repository/lock/lock.ts';
import type { GuestKernel } from '../../sandbox/policy/guest-kernel.ts';
import { IMAGE_FORMAT, type ImageInputs } from '../key.ts';
import type { Account } from '../tree/accounts.ts';
import { isDurable, type Moment } from './durability.ts';
import { knownDamage } from './mark.ts';
import { noteOwnFiles, type OwnFiles } from './own-files.ts';

export type TransactionKind = 'fast' | 'exact' | 'none' | 'imported';

/** How an image says that it is started: of images of others alone. */
export interface ImageStart {
  /** ENTRYPOINT: the words before those of a command. */
  readonly entrypoint?: readonly string[];
  /** CMD: what runs where nobody names a command. */
  readonly command?: readonly string[];
  /** EXPOSE, such as 80/tcp: shown only. */
  readonly exposed?: readonly string[];
  /** HEALTHCHECK, as docker has it, times in milliseconds: shown only. */
  readonly healthcheck?: {
    readonly test: readonly string[];
    readonly interval?: number;
    readonly timeout?: number;
    readonly startPeriod?: number;
    readonly retries?: number;
  };
}

/** image.json: small, because every `kiln run` reads it; {@link imageFiles.contents} has the rest. */
export interface ImageManifest extends ImageStart {
  readonly format: number;
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly arch: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly user: Account;
  readonly workdir: string;
  readonly accounts: readonly Account[];
  /** Folders of this host that a command sees, read-only: of the image `host` alone. */
  readonly host?: readonly string[];
  /** What its machines boot, by paths in its tree, where its recipe says `kernel: true`. */
  readonly kernel?: GuestKernel;
  readonly packageCount: number;
  readonly bytes: number;
  /** Bytes on disk that are not shared with the package store. */
  readonly ownBytes: number;
  /** When its newest package was built, seconds since 1970; files that scriptlets made have it. */
  readonly epoch: number;
  readonly transaction: TransactionKind;
  readonly warnings: readonly string[];
  /** Milliseconds since 1970. */
  readonly created: number;
  readonly made: Moment;
  /** Of an image that was made of snapshots: the image they stand on, and the digests of their layers. */
  readonly madeOf?: { readonly image: string; readonly layers: readonly string[] };
}

/** What the results of a job say of its image. */
export function imageFacts({ id, name, arch }: ImageManifest) {
  return { id, name, arch };
}

export const imageFiles = {
  manifest: (directory: string) => join(directory, 'image.json'),
  tree: (directory: string) => join(directory, 'tree'),
  contents: (directory: string) => join(directory, 'contents.json'),
  /** Locked (shared) while in use; its mtime is the last use. */
  lease: (directory: string) => join(directory, 'lease'),
};

export function imageDirectory(paths: StatePaths, id: string): string {
  return join(paths.images, id);
}

/** Whether a word is a whole id, and so nothing else. */
export function isImageId(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text);
}

export function imageIds(paths: StatePaths): string[] {
  return (attempt(() => readdirSync(paths.images)) ?? []).filter(isImageId);
}

/**
 * Undefined for another format, without a tree, where it is known to be damaged, or if the machine went down before the
 * disk had all of it.
 */
export function readManifest(paths: StatePaths, id: string): ImageManifest | undefined {
  const directory = imageDirectory(paths, id);
  const { value, damage } = findRecord(imageFiles.manifest(directory), takeManifest);
  if (damage !== undefined) return unusable(damage);
  if (value?.format !== IMAGE_FORMAT || !isDurable(paths, value.made)) return undefined;
  const known = knownDamage(directory);
  if (known !== undefined) return unusable(known);
  const tree = imageFiles.tree(directory);
  return existsSync(tree) ? value : unusable({ path: tree, why: 'it is gone' });
}

function unusable({ path, why }: { path: string; why: string }): undefined {
  tellDamage({ path, why, done: 'the image cannot be used, and is made again when it is needed' });
}

const takeManifest = withFields<ImageManifest>({
  format: 'number',
  id: 'string',
  made: 'object',
  environment: 'object',
  user: 'object',
  accounts: 'array',
});

export interface ImageContents {
  readonly inputs: ImageInputs | null;
  readonly packages: Lock['packages'];
  readonly linked: readonly string[];
  readonly exactReasons: readonly string[];
}

const takeContents = withFields<ImageContents>({
  packages: 'array',
  linked: 'array',
});

export function findContents(paths: StatePaths, id: string): FoundRecord<ImageContents> {
  return findRecord(imageFiles.contents(imageDirectory(paths, id)), takeContents);
}

export async function readContents(paths: StatePaths, id: string): Promise<ImageContents> {
  const { value, damage } = findContents(paths, id);
  if (value !== undefined) return value;
  throw new KilnError('E_IMAGE_MISSING', `cannot read what image ${id} is made of`, {
    cause: damage ?? new Error('it has no contents.json'),
    hint: 'build it again from its recipe, or import it again',
  });
}

/*
 * Whose images are. Their files are shared by all who have made or brought them, and so proved to have the
 * content. Names are their owner's alone, and each means one image of that owner's: src/image/store/names.ts.
 * `owner-UID.json` in an image's folder is one owner.
 */

export const ROOT = 0;

export interface ImageOwner {
  /** What lists call it, whether that means it or not. */
  readonly name: string;
  /** What means it, the newest first; `name` alone unless given. */
  readonly names?: readonly string[];
  /** The recipe, lock or reference that it came with. */
  readonly from?: string;
  /** Made with a login or a certificate: not for others who may see its owner’s images. */
  readonly private: boolean;
  /** kiln made it for a build of a user's, and makes it again: it may go when the user needs room. */
  readonly forBuilds?: boolean;
}

const FILE = /^owner-(\d+)\.json$/;

export function ownerFile(directory: string, uid: number): string {
  return join(directory, `owner-${uid}.json`);
}

/** Characters of image.json, which kilnd's own thread reads: some thousand accounts or variables. */
const MANIFEST_MAX = 256 * 1024;

/** No name means it yet. @throws KilnError E_IMAGE_LARGE */
export async function writeImage(
  directory: string,
  manifest: ImageManifest,
  contents: ImageContents,
  { uid, owner, ...own }: { readonly uid: number; readonly owner: ImageOwner } & OwnFiles,
): Promise<void> {
  const length = JSON.stringify(manifest).length;
  if (length > MANIFEST_MAX) {
    const what = `what the image ${owner.name} says of itself takes ${length} characters, more than ${MANIFEST_MAX}`;
    throw new KilnError('E_IMAGE_LARGE', what, {
      hint: 'it has too many accounts (/etc/passwd), variables or words of description',
    });
  }
  await noteOwnFiles(directory, imageFiles.tree(directory), own);
  writeRecord(imageFiles.contents(directory), contents);
  writeFileSync(imageFiles.lease(directory), '', { mode: 0o600 });
  writeRecord(imageFiles.manifest(directory), manifest);
  writeRecord(ownerFile(directory, uid), { ...owner, names: [] });
}

interface StoredImage {
  readonly id: string;
}

const takeOwner = withFields<ImageOwner>({ name: 'string', private: 'boolean' });

/** The keys are uids. A damaged file counts for nothing: nobody learns whose it was. */
export function ownersOf(paths: StatePaths, { id }: StoredImage): Map<number, ImageOwner> {
  const owners = new Map<number, ImageOwner>();
  const directory = imageDirectory(paths, id);
  // Whoever has listed it may be slower than whoever removes it.
  for (const file of unlessErrno(['ENOENT'], () => readdirSync(directory)) ?? []) {
    const uid = FILE.exec(file)?.[1];
    if (uid === undefined) continue;
    const path = join(directory, file);
    const { value, damage } = findRecord(path, takeOwner);
    if (damage !== undefined)
      tellDamage({ path, why: damage.why, done: 'the image has an owner less' });
    if (value !== undefined) owners.set(Number(uid), value);
  }
  return owners;
}

/** What an image is called to whoever looks; undefined if it is not to be seen. */
export function nameFor(
  paths: StatePaths,
  image: StoredImage,
  viewer: ImageViewer | undefined,
): string | undefined {
  const owners = ownersOf(paths, image);
  const own = viewer && owners.get(viewer.uid);
  return (
    own?.name ?? seenOfRoot(owners.get(ROOT), (roots) => [roots.name, ...namesOf(roots)], viewer)[0]
  );
}

/** All names that mean the image to whoever looks, the newest first. */
export function namesFor(
  paths: StatePaths,
  image: StoredImage,
  viewer: ImageViewer | undefined,
): readonly string[] {
  const owners = ownersOf(paths, image);
  const own = viewer === undefined ? undefined : owners.get(viewer.uid);
  return [...new Set([...namesOf(own), ...seenOfRoot(owners.get(ROOT), namesOf, viewer)])];
}

function seenOfRoot(
  roots: ImageOwner | undefined,
  names: (roots: ImageOwner) => readonly string[],
  viewer: ImageViewer | undefined,
): readonly string[] {
  if (roots === undefined) return [];
  return names(roots).filter((name) => viewer?.seesOfRoot({ ...roots, name }) ?? true);
}

export function namesOf(owner: ImageOwner | undefined): readonly string[] {
  return owner === undefined ? [] : (owner.names ?? [owner.name]);
}

export function disownImage(paths: StatePaths, manifest: ImageManifest, uid: number): boolean {
  const owners = ownersOf(paths, manifest);
  owners.delete(uid);
  if (owners.size === 0) return false;
  rmSync(ownerFile(imageDirectory(paths, manifest.id), uid), { force: true });
  return true;
}
