/** Compares unpacked files with the digests in their headers, which no run has time for. */

import { createHash } from 'node:crypto';
import { constants, fstatSync, openSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt, SyscallError, unlessErrno } from '../../host/calls/libc.ts';
import { FILE_BELOW, O_PATH, openat2, openInTree } from '../../host/files/at.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { filePieces } from '../../packages/rpm/digests.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';
import { damagedImages, discardDamaged, type FoundDamage, noteDamage } from './damage.ts';
import { packageDamage, readEntry, readStoredPackage, type StoredPackage } from './entry.ts';
import { findContents, imageDirectory, imageFiles, imageIds } from './manifest.ts';
import { ensureStore } from './work-directory.ts';

export interface VerifyReport {
  /** How many packages were compared. */
  readonly packages: number;
  /** Digests of packages. */
  readonly damaged: readonly string[];
  /** Ids of images that share a damaged file. */
  readonly images: readonly string[];
  readonly uncompared: {
    /** Digests of packages whose files are not known: of an image’s as well, which the store does not have. */
    readonly packages: readonly string[];
    /** Files of images that are neither a package’s own nor equal to it: scriptlets and recipes change some. */
    readonly files: number;
  };
}

/**
 * A package with a different file is thrown away, unless an image is being made of it, and images that share the file
 * are taken for damaged from then on.
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
  const files = await unknownFiles(paths, uncompared);
  const images = [...damagedImages(paths).keys()];
  return { packages, damaged, images, uncompared: { packages: [...uncompared], files } };
}

interface Compared {
  readonly damage: (Pick<FoundDamage, 'path' | 'why'> & { readonly file: string }) | undefined;
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
  return digestOf(fd, algorithm) === file.digest ? undefined : `its ${algorithm} is another one`;
}

function digestOf(fd: number, algorithm: string): string {
  const hash = createHash(algorithm);
  for (const piece of filePieces(fd, 0)) hash.update(piece);
  return hash.digest('hex');
}

function relativeName({ path }: RpmFile): Buffer {
  return encodeName(path.replace(/^\/+/, ''));
}

/**
 * Looks at the files of images that are not the very files of their packages. How many are not equal to them; packages
 * that images have and the store does not are added to `unknown`.
 */
async function unknownFiles(paths: StatePaths, unknown: Set<string>): Promise<number> {
  let count = 0;
  for (const id of imageIds(paths)) {
    const tree = imageFiles.tree(imageDirectory(paths, id));
    for (const digest of new Set(findContents(paths, id).value?.linked)) {
      const stored = readStoredPackage(paths, digest);
      if (stored === undefined) unknown.add(digest);
      else count += unknownFilesOf(tree, stored);
      await nextTurn();
    }
  }
  return count;
}

/** Both may be removed meanwhile. */
function unknownFilesOf(tree: string, { package: of, tree: packageTree }: StoredPackage): number {
  const open = (path: string) =>
    unlessErrno(['ENOENT'], () => closing(openSync(path, constants.O_DIRECTORY)));
  using image = open(tree);
  using own = open(packageTree);
  if (image === undefined || own === undefined) return 0;
  return digestedFiles(of).filter((file) => !isKnown(image.fd, own.fd, file, of)).length;
}

/** The image's tree was written to by scriptlets: what is not a file is not read. */
function isKnown(
  image: number,
  own: number,
  file: RpmFile,
  { fileDigestAlgorithm: algorithm }: RpmPackage,
): boolean {
  using there = openInTree(image, encodeName(file.path), O_PATH);
  using original = attempt(() => closing(openat2(own, relativeName(file), FILE_BELOW)));
  if (there === undefined || original === undefined) return false;
  const found = fstatSync(there.fd);
  const { dev, ino } = fstatSync(original.fd);
  if (found.ino === ino && found.dev === dev) return true;
  if (!found.isFile()) return false;
  using readable = closing(openSync(`/proc/self/fd/${there.fd}`, 'r'));
  return digestOf(readable.fd, algorithm) === file.digest;
}
