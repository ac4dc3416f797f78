import type { RpmPackage } from '../../rpm/package.ts';
import type { UnpackedTree } from '../tree/compose.ts';

/** A verified, unpacked package of the store. */
export interface StoredPackage {
  /** `sha256:…` of the package file. */
  readonly digest: string;
  readonly package: RpmPackage;
  readonly tree: UnpackedTree;
  /** A file that holds lead, signature and header, for `rpm --justdb`. */
  readonly header: string;
  /** The package file. */
  readonly file: string;
}
