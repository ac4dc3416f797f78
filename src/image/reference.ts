/**
 * Remembers which image a recipe or a lock last became, so that `kiln run` neither parses nor solves while
 * nothing has changed.
 */
import { statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { shortHash } from '../host/process/short-hash.ts';
import { dropCached, findRecord, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { StatePaths } from '../host/state/paths.ts';

/** Raised when other files count. Before 2, key files did not. */
const FORMAT = 2;

/** A file's state: any change shows in one of these. */
interface Fingerprint {
  readonly path: string;
  /** Null if there was no such file. */
  readonly stat: string | null;
}

/** The image that a file became, and all files that decided it. */
interface Reference {
  readonly format: typeof FORMAT;
  /** The path of the recipe or lock: two such files may have the same name. */
  readonly path: string;
  readonly image: string;
  readonly files: readonly Fingerprint[];
}

/** The image that `path` became, if none of the files that decided it has changed. */
export function readReference(paths: StatePaths, path: string): string | undefined {
  return currentReference(paths, path)?.image;
}

/** A value that stays equal while `path` is known to mean the same image from the same, unchanged files. */
export function currentReference(paths: StatePaths, path: string): Reference | undefined {
  const { value: reference, damage } = findRecord(referenceFile(paths, path), takeReference);
  if (damage !== undefined) dropCached(damage);
  if (reference?.format !== FORMAT || reference.path !== path) return undefined;
  const same = reference.files.every((file) => fingerprint(file.path).stat === file.stat);
  return same ? reference : undefined;
}

const takeReference = withFields<Reference>({ path: 'string', image: 'string', files: 'array' });

/** Notes that `path` became `image`, decided by `files` (or their absence). */
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

/** The current state of a file. */
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
