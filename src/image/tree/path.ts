import { constants } from 'node:fs';
import { hasErrno } from '../../host/calls/libc.ts';
import { O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../host/files/at.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';

/**
 * Opens `path` as a process whose root is the open directory `root`: links are followed, and none leads out.
 * Undefined if it does not exist. The caller closes the descriptor.
 */
export function openInTree(root: number, path: Buffer | string, flags: number): number | undefined {
  try {
    // O_NONBLOCK: a fifo must not block kiln. With O_PATH nothing is opened, and the kernel refuses the flag.
    const unblocked = (flags & O_PATH) === 0 ? flags | constants.O_NONBLOCK : flags;
    return openat2(root, path, {
      flags: unblocked,
      resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    });
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO')) return undefined;
    throw error;
  }
}

/** A path of a package, with what composing an image needs. */
export interface OwnedFile {
  readonly package: RpmPackage;
  readonly file: RpmFile;
}

/**
 * Whether two packages conflict over this path, by rpm's own rule (rpmfilesCompare in lib/rpmfi.c). The paths
 * may be written differently if a link leads from one to the other.
 */
export function filesConflict(a: OwnedFile, b: OwnedFile): boolean {
  if (a.file.flags.includes('ghost') || b.file.flags.includes('ghost')) return false;
  const bothLinks = a.file.type === 'symlink' && b.file.type === 'symlink';
  if (!bothLinks && a.file.mode !== b.file.mode) return true;
  if (a.file.owner !== b.file.owner || a.file.group !== b.file.group) return true;
  if (bothLinks) return a.file.linkTarget !== b.file.linkTarget;
  if (a.file.type === 'file') {
    if (a.file.size !== b.file.size) return true;
    return digestOf(a) !== digestOf(b);
  }
  if (a.file.type === 'char' || a.file.type === 'block') return a.file.rdev !== b.file.rdev;
  return false;
}

/** Digests of two algorithms cannot be compared; rpm counts that as a conflict. */
function digestOf({ package: from, file }: OwnedFile): string {
  return `${from.fileDigestAlgorithm}:${file.digest ?? ''}`;
}

/** A package's name in rpm's problems: name-[epoch:]version-release.arch. */
export function nevra(of: RpmPackage): string {
  const epoch = of.epoch === null || of.epoch === 0 ? '' : `${of.epoch}:`;
  return `${of.name}-${epoch}${of.version}-${of.release}.${of.arch}`;
}
