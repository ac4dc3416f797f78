import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { type FoundRecord, findRecord, withFields } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { Lock } from '../../packages/repository/lock/lock.ts';
import { IMAGE_FORMAT, type ImageInputs } from '../key.ts';
import type { Account } from '../tree/accounts.ts';
import { isDurable, type Moment } from './durability.ts';

/** How an image's packages were installed, see docs/images.md. */
export type TransactionKind = 'fast' | 'exact' | 'none' | 'imported';

/**
 * What is needed to run something in an image (image.json): small, because every `kiln run` reads
 * it. What it is made of is in {@link imageFiles.contents}.
 */
export interface ImageManifest {
  readonly format: number;
  /** 64 hex digits. */
  readonly id: string;
  /** The recipe's name, for people. */
  readonly name: string;
  readonly description: string;
  readonly arch: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly user: Account;
  /** Where commands start, absolute. */
  readonly workdir: string;
  /** Every user of the image's /etc/passwd. */
  readonly accounts: readonly Account[];
  readonly packageCount: number;
  readonly bytes: number;
  /** Bytes on disk that only this image holds: what it does not share with the package store. */
  readonly ownBytes: number;
  /** Newest build time of its packages, seconds since 1970: what scriptlets made is that old. */
  readonly epoch: number;
  readonly transaction: TransactionKind;
  /** What scriptlets complained about, one line each. */
  readonly warnings: readonly string[];
  /** Milliseconds since 1970. */
  readonly created: number;
  readonly made: Moment;
}

/** The files of an image's folder. */
export const imageFiles = {
  manifest: (directory: string) => join(directory, 'image.json'),
  /** The root directory itself. */
  tree: (directory: string) => join(directory, 'tree'),
  /** {@link ImageContents}: inputs and packages. */
  contents: (directory: string) => join(directory, 'contents.json'),
  /** Locked (shared) by whoever uses the image; its mtime is the last use. */
  lease: (directory: string) => join(directory, 'lease'),
};

/** The folder of the image `id`, whether there is one or not. */
export function imageDirectory(paths: StatePaths, id: string): string {
  return join(paths.images, id);
}

/**
 * The manifest of an image that can be used; undefined if there is none, if it was made by another
 * version of the format, or if the machine went down before the disk had all of it.
 */
export function readManifest(paths: StatePaths, id: string): ImageManifest | undefined {
  const { value, damage } = findRecord(
    imageFiles.manifest(imageDirectory(paths, id)),
    takeManifest,
  );
  if (damage !== undefined) {
    const done = 'the image cannot be used, and is made anew when it is wanted';
    tellDamage({ path: damage.path, why: damage.why, done });
    return undefined;
  }
  if (value?.format !== IMAGE_FORMAT || !isDurable(paths, value.made)) return undefined;
  return value;
}

/** What every format has had; what others have is not looked at. */
const takeManifest = withFields<ImageManifest>({
  format: 'number',
  id: 'string',
  made: 'object',
  environment: 'object',
  user: 'object',
  accounts: 'array',
});

/** What an image is made of (contents.json). */
export interface ImageContents {
  /** What the id is the digest of; null for an imported image. */
  readonly inputs: ImageInputs | null;
  /** All its packages, those of its base first. */
  readonly packages: Lock['packages'];
  /** Digests (`sha256:…`) of the unpacked packages it has hard links to. */
  readonly linked: readonly string[];
  /** Why rpm itself installed the packages; empty where it did not. */
  readonly exactReasons: readonly string[];
}

const takeContents = withFields<ImageContents>({
  packages: 'array',
  linked: 'array',
});

/** Reads contents.json, or says what is wrong with it. */
export function findContents(paths: StatePaths, id: string): FoundRecord<ImageContents> {
  return findRecord(imageFiles.contents(imageDirectory(paths, id)), takeContents);
}

/** @throws KilnError E_IMAGE_MISSING */
export async function readContents(paths: StatePaths, id: string): Promise<ImageContents> {
  const { value, damage } = findContents(paths, id);
  if (value !== undefined) return value;
  throw new KilnError('E_IMAGE_MISSING', `cannot read what image ${id} is made of`, {
    cause: damage ?? new Error('it has no contents.json'),
    hint: 'build it again from its recipe, or import it again',
  });
}
