import { createHash } from 'node:crypto';
/** Compares unpacked files with the digests in their headers, which no run has time for. */

import { constants, existsSync, fstatSync, openSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt, SyscallError, unlessErrno } from '../../host/calls/libc.ts';
import { FILE_BELOW, O_PATH, openat2, openInTree } from '../../host/files/at.ts';
import { contentDigest } from '../../host/files/content.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';
import { damagedImages, discardDamaged, type FoundDamage, noteDamage } from './damage.ts';
import { packageDamage, readEntry, readStoredPackage, type StoredPackage } from './entry.ts';
import { findContents, imageDirectory, imageFiles, imageIds } from './manifest.ts';
import { type KnownDamage, knownDamage, noteIn } from './mark.ts';
import { type ComparedOwn, compareOwnFiles, inodeOf } from './own-files.ts';
import { ensureStore } from './work-directory.ts';

export interface VerifyReport {
  /** How many packages were compared. */
  readonly packages: number;
  /** Digests of packages. */
  readonly damaged: readonly string[];
  /** Ids of damaged images. */
  readonly images: readonly string[];
  readonly uncompared: {
    /** Digests of packages whose files are not known: of an image’s as well, which the store does not have. */
    readonly packages: readonly string[];
    /** Ids of images of which nothing says how their own files were. */
    readonly images: readonly string[];
    /** How many of their own files have too many holes. */
    readonly files: number;
  };
}

/**
 * A package with a different file is thrown away, unless an image is being made of it. Images that share the file, or
 * have a different one of their own, are taken for damaged from then on.
 */
export async function verifyPackages(paths: StatePaths): Promise<VerifyReport> {
  ensureStore(paths);
  const damaged: string[] = [];
  const uncompared = new Set<string>();
  let packages = 0;
  for (const name of await readdir(paths.packages)) {
    const digest = `sha256:${name}`;
    const directory = join(paths.packages, name);
    // Without a lock, for which all who make images wait: `kiln gc` may remove it meanwhile.
    const inode = statSync(directory, { throwIfNoEntry: false })?.ino;
    const known = packageDamage(directory);
    const of = readEntry(paths, directory);
    const compared = of && (await compare(join(directory, 'tree'), of));
    if (compared === undefined) uncompared.add(digest);
    else packages++;
    const found = compared?.damage ?? known;
    if (inode === undefined || found === undefined) continue;
    if (statSync(directory, { throwIfNoEntry: false })?.ino !== inode) continue;
    damaged.push(digest);
    const { path, why } = found;
    const file = compared?.damage?.file;
    await noteDamage(paths, [{ digest, inode, path, why, file } satisfies FoundDamage]);
  }
  await discardDamaged(paths);
  const images: string[] = [];
  let files = 0;
  for (const id of imageIds(paths)) {
    const own = await compareImage(paths, id, uncompared);
    if (own === undefined) images.push(id);
    else files += own.holes;
  }
  const found = [...damagedImages(paths).keys()];
  return {
    ...{ packages, damaged, images: found },
    uncompared: { packages: [...uncompared], images, files },
  };
}

interface Compared {
  readonly damage: (KnownDamage & { readonly file: string }) | undefined;
}

/** Undefined where its digests are of a kind that this Node does not have. */
async function compare(tree: string, of: RpmPackage): Promise<Compared | undefined> {
  const { fileDigestAlgorithm: algorithm } = of;
  if (attempt(() => createHash(algorithm)) === undefined) return undefined;
  using root = unlessErrno(['ENOENT', 'ENOTDIR'], () =>
    closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY)),
  );
  if (root === undefined) return { damage: { path: tree, why: 'it is missing', file: '' } };
  for (const file of digestedFiles(of)) {
    const why = differs(root.fd, file, algorithm);
    if (why !== undefined) return { damage: { path: `${tree}${file.path}`, why, file: file.path } };
    await nextTurn();
  }
  return { damage: undefined };
}

function digestedFiles({ files }: RpmPackage): RpmFile[] {
  return files.filter(
    ({ digest, type, flags }) => digest !== null && type === 'file' && !flags.includes('ghost'),
  );
}

function differs(root: number, file: RpmFile, algorithm: string): string | undefined {
  let fd: number;
  try {
    fd = openat2(root, relativeName(file), FILE_BELOW);
  } catch (error) {
    if (error instanceof SyscallError) return `it cannot be opened (${error.errnoName})`;
    throw error;
  }
  using _fd = closing(fd);
  return contentDigest(fd, algorithm) === file.digest
    ? undefined
    : `its ${algorithm} is another one`;
}

function relativeName({ path }: RpmFile): Buffer {
  return encodeName(path.replace(/^\/+/, ''));
}

/** Adds packages that the image has and the store does not to `unknown`. @returns undefined where none of its own are known */
async function compareImage(
  paths: StatePaths,
  id: string,
  unknown: Set<string>,
): Promise<ComparedOwn | undefined> {
  const directory = imageDirectory(paths, id);
  const tree = imageFiles.tree(directory);
  // `kiln image rm` may remove it meanwhile.
  if (!existsSync(tree)) return NOTHING;
  const isKnown = knownDamage(directory) !== undefined;
  const own = isKnown ? NOTHING : await compareOwnFiles(directory, tree);
  const shared = new SharedFiles(tree, own?.inodes);
  for (const digest of new Set(findContents(paths, id).value?.linked)) {
    const stored = readStoredPackage(paths, digest);
    if (stored === undefined) unknown.add(digest);
    else if (own !== undefined && !isKnown) shared.compare(stored);
    await nextTurn();
  }
  const damage = own?.damage ?? shared.damage;
  if (damage !== undefined && existsSync(tree)) noteIn(directory, damage);
  return own;
}

const NOTHING: ComparedOwn = { damage: undefined, holes: 0, inodes: new Set() };

/** The files that an image has of its packages. */
class SharedFiles {
  readonly #tree: string;
  readonly #known: Set<string>;
  /** By inode. Two packages may have different files at one path, of which the image has one. */
  readonly #wrong = new Map<string, KnownDamage>();

  constructor(tree: string, known: Iterable<string> = []) {
    this.#tree = tree;
    this.#known = new Set(known);
  }

  get damage(): KnownDamage | undefined {
    for (const [inode, damage] of this.#wrong) if (!this.#known.has(inode)) return damage;
    return undefined;
  }

  /** Image and package may be removed meanwhile. */
  compare({ package: of, tree }: StoredPackage): void {
    const open = (path: string) =>
      unlessErrno(['ENOENT'], () => closing(openSync(path, constants.O_DIRECTORY)));
    using image = open(this.#tree);
    using from = open(tree);
    if (image === undefined || from === undefined) return;
    for (const file of digestedFiles(of)) this.#compare(image.fd, from.fd, file, of);
  }

  /** The image's tree was written to by scriptlets: what is not a file is not read, and one may be gone. */
  #compare(image: number, from: number, file: RpmFile, of: RpmPackage): void {
    const { fileDigestAlgorithm: algorithm } = of;
    using there = openInTree(image, encodeName(file.path), O_PATH);
    if (there === undefined) return;
    const found = fstatSync(there.fd);
    const inode = inodeOf(found);
    if (!found.isFile() || this.#known.has(inode)) return;
    using original = attempt(() => closing(openat2(from, relativeName(file), FILE_BELOW)));
    if (original === undefined || inodeOf(fstatSync(original.fd)) !== inode) {
      using readable = closing(openSync(`/proc/self/fd/${there.fd}`, 'r'));
      if (contentDigest(readable.fd, algorithm) !== file.digest) {
        const why = `its ${algorithm} is another one`;
        this.#wrong.set(inode, { path: `${this.#tree}${file.path}`, why });
        return;
      }
    }
    this.#known.add(inode);
  }
}
