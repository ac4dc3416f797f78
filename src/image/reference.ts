/**
 * Which image a recipe or a lock last became: so that `kiln run` neither parses nor solves while
 * nothing has changed.
 */
import { statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { shortHash } from '../host/process/short-hash.ts';
import { dropCached, findRecord, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { StatePaths } from '../host/state/paths.ts';

/** Raised when other files count. Before 2, those with keys did not. */
const FORMAT = 2;

/** A file as it was: any change to it shows in one of these. */
interface Fingerprint {
  readonly path: string;
  /** Null: there was no such file. */
  readonly stat: string | null;
}

/** Which image a file became, and all files that had a part in it. */
interface Reference {
  readonly format: typeof FORMAT;
  /** What became the image: the names of two such files may be the same. */
  readonly path: string;
  readonly image: string;
  readonly files: readonly Fingerprint[];
}

/** The image that `path` became, if all files that went into it are what they were. */
export function readReference(paths: StatePaths, path: string): string | undefined {
  return currentReference(paths, path)?.image;
}

/** Equal as long as `path` is known to mean the same: the same files, unchanged, the same image. */
export function currentReference(paths: StatePaths, path: string): Reference | undefined {
  const { value: reference, damage } = findRecord(referenceFile(paths, path), takeReference);
  if (damage !== undefined) dropCached(damage);
  if (reference?.format !== FORMAT || reference.path !== path) return undefined;
  const same = reference.files.every((file) => fingerprint(file.path).stat === file.stat);
  return same ? reference : undefined;
}

const takeReference = withFields<Reference>({ path: 'string', image: 'string', files: 'array' });

/** Notes that `path` became `image`, in which `files` (or their absence) had a part. */
export async function writeReference(
  paths: StatePaths,
  path: string,
  image: string,
  files: readonly Fingerprint[],
): Promise<void> {
  const reference: Reference = { format: FORMAT, path, image, files };
  await mkdir(referenceDirectory(paths), { recursive: true, mode: 0o700 });
  const file = referenceFile(paths, path);
  writeRecord(file, reference);
}

/** A file as it is now. */
export function fingerprint(path: string): Fingerprint {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return { path, stat: stat ? `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}` : null };
}

function referenceDirectory(paths: StatePaths): string {
  return join(paths.store, 'references');
}

function referenceFile(paths: StatePaths, path: string): string {
  return join(referenceDirectory(paths), `${shortHash(path)}.json`);
}
