/** Compares unpacked files with the digests in their headers, which no run has time for. */

import { createHash } from 'node:crypto';
import { constants, openSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { SyscallError, unlessErrno } from '../../host/calls/libc.ts';
import { FILE_BELOW, openat2 } from '../../host/files/at.ts';
import { withLock } from '../../host/files/flock.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { filePieces } from '../../packages/rpm/digests.ts';
import type { RpmFile } from '../../packages/rpm/package.ts';
import { readStoredPackage } from './entry.ts';
import { listImages, removeImage } from './images.ts';
import { findContents } from './manifest.ts';
import { discard, ensureStore, neededPackages, packagesLock } from './work-directory.ts';

export interface VerifyReport {
  readonly packages: number;
  readonly damaged: readonly string[];
  readonly images: readonly string[];
}

/**
 * A package with a different file is removed, with the images that share its files; those in use, or needed for an
 * image that is being made, stay and are reported.
 */
export async function verifyPackages(paths: StatePaths): Promise<VerifyReport> {
  ensureStore(paths);
  const damaged: string[] = [];
  let packages = 0;
  for (const name of await readdir(paths.packages)) {
    const digest = `sha256:${name}`;
    if (readStoredPackage(paths, digest) === undefined) continue;
    packages++;
    // Without the lock, for which all who make images wait: `kiln gc` may remove it meanwhile.
    if ((await differingFile(paths, digest)) === undefined) continue;
    await withLock(packagesLock(paths), async () => {
      const found = await differingFile(paths, digest);
      if (found === undefined) return;
      const { path, why } = found;
      const isNeeded = (await neededPackages(paths)).includes(digest);
      const done = isNeeded ? 'it stays: an image is made of it' : 'its package is thrown away';
      tellDamage({ path, why, done });
      if (isNeeded) return;
      await discard(paths, join(paths.packages, name));
      damaged.push(digest);
    });
  }
  return { packages, damaged, images: await removeSharing(paths, damaged) };
}

async function differingFile(
  paths: StatePaths,
  digest: string,
): Promise<{ readonly path: string; readonly why: string } | undefined> {
  const stored = readStoredPackage(paths, digest);
  if (stored === undefined) return undefined;
  const { tree } = stored;
  const { files, fileDigestAlgorithm } = stored.package;
  using root = unlessErrno(['ENOENT'], () =>
    closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY)),
  );
  if (root === undefined) return { path: tree, why: 'it is missing' };
  for (const file of files) {
    if (file.digest === null || file.type !== 'file' || file.flags.includes('ghost')) continue;
    const why = differs(root.fd, file, fileDigestAlgorithm);
    if (why !== undefined) return { path: `${tree}${file.path}`, why };
    await nextTurn();
  }
  return undefined;
}

function differs(root: number, { path, digest }: RpmFile, algorithm: string): string | undefined {
  let fd: number;
  try {
    fd = openat2(root, path.replace(/^\/+/, ''), FILE_BELOW);
  } catch (error) {
    if (error instanceof SyscallError) return `it cannot be opened (${error.errnoName})`;
    throw error;
  }
  using _fd = closing(fd);
  const hash = createHash(algorithm);
  for (const piece of filePieces(fd, 0)) hash.update(piece);
  return hash.digest('hex') === digest ? undefined : `its ${algorithm} is another one`;
}

async function removeSharing(paths: StatePaths, damaged: readonly string[]): Promise<string[]> {
  const removed: string[] = [];
  if (damaged.length === 0) return removed;
  for (const { manifest } of await listImages(paths)) {
    const { linked = [] } = findContents(paths, manifest.id).value ?? {};
    if (!linked.some((digest) => damaged.includes(digest))) continue;
    try {
      await removeImage(paths, manifest.id);
      removed.push(manifest.id);
    } catch (error) {
      if (!(error instanceof KilnError)) throw error;
      tellDamage({
        path: join(paths.images, manifest.id),
        why: 'it shares files with a damaged package',
        done: `it stays: ${error.message}`,
      });
    }
  }
  return removed;
}
