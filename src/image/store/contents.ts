import { KilnError } from '../../errors.ts';
import type { Lock } from '../../repository/lock.ts';
import { type FoundRecord, findRecord, withFields } from '../../state/checked-file.ts';
import type { StatePaths } from '../../state/paths.ts';
import type { ImageInputs } from '../key.ts';
import { imageDirectory, imageFiles } from './manifest.ts';

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
