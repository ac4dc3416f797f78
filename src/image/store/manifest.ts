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
 * What running something in an image needs (image.json). It is small because every `kiln run` reads it; {@link
 * imageFiles.contents} has the rest.
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
  /** The working directory of commands, absolute. */
  readonly workdir: string;
  /** Every user of the image's /etc/passwd. */
  readonly accounts: readonly Account[];
  readonly packageCount: number;
  readonly bytes: number;
  /** Bytes on disk that this image does not share with the package store. */
  readonly ownBytes: number;
  /** The newest build time of its packages, seconds since 1970; files that scriptlets made have it. */
  readonly epoch: number;
  readonly transaction: TransactionKind;
  /** Warnings of scriptlets, one line each. */
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
  /** Locked (shared) while the image is in use; its mtime is the last use. */
  lease: (directory: string) => join(directory, 'lease'),
};

/** The folder of the image `id`, whether it exists or not. */
export function imageDirectory(paths: StatePaths, id: string): string {
  return join(paths.images, id);
}

/**
 * The manifest of a usable image; undefined if there is none, if another version of the format made it, or if
 * the machine went down before the disk had all of it.
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

/** Fields that every format has; others are not checked. */
const takeManifest = withFields<ImageManifest>({
  format: 'number',
  id: 'string',
  made: 'object',
  environment: 'object',
  user: 'object',
  accounts: 'array',
});

/** The inputs and packages of an image (contents.json). */
export interface ImageContents {
  /** The inputs whose digest is the id; null for an imported image. */
  readonly inputs: ImageInputs | null;
  /** All packages, those of the base first. */
  readonly packages: Lock['packages'];
  /** Digests (`sha256:…`) of the unpacked packages with hard links in the image. */
  readonly linked: readonly string[];
  /** Why rpm itself installed the packages; empty if it did not. */
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
