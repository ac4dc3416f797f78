import type { RpmFile, RpmPackage } from '../../rpm/package.ts';

/** One path of one package, as far as composing an image goes. */
export interface OwnedFile {
  readonly package: RpmPackage;
  readonly file: RpmFile;
}

/**
 * Whether two packages may not both hold this path: rpm's own rule (rpmfilesCompare in
 * lib/rpmfi.c). The paths may be written differently when a link leads from one to the other.
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

/** Digests of two algorithms cannot be compared, which rpm takes for a conflict. */
function digestOf({ package: from, file }: OwnedFile): string {
  return `${from.fileDigestAlgorithm}:${file.digest ?? ''}`;
}

/** How rpm names a package in its problems: name-[epoch:]version-release.arch. */
export function nevra(of: RpmPackage): string {
  const epoch = of.epoch === null || of.epoch === 0 ? '' : `${of.epoch}:`;
  return `${of.name}-${epoch}${of.version}-${of.release}.${of.arch}`;
}
