/** The image that a recipe or a lock last became: `kiln run` neither parses nor solves what is unchanged. */
import { existsSync, statSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { foundAt } from '../host/files/held.ts';
import { withArchitecture } from '../host/process/architecture.ts';
import { shortHash } from '../host/process/short-hash.ts';
import { findCached, findRecord, withFields, writeRecord } from '../host/state/checked-file.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { isCallers } from '../recipe/named.ts';

interface ReferencePlace {
  readonly paths: StatePaths;
  holdName(path: string): Promise<void>;
}

/** What a reference is filed under: a recipe is another image for another architecture. */
export function sourceKey(named: { readonly path: string; readonly arch?: string }): string {
  return withArchitecture(named.path, named.arch);
}

const FORMAT = 2;

interface Fingerprint {
  readonly path: string;
  readonly stat: string | null;
}

interface Reference {
  readonly format: typeof FORMAT;
  /** Two recipes or locks may have the same name. */
  readonly path: string;
  readonly image: string;
  readonly files: readonly Fingerprint[];
}

/** Undefined where the recipe, or what it names, has changed since. */
export async function currentReference(
  { paths, holdName }: ReferencePlace,
  path: string,
): Promise<Reference | undefined> {
  const reference = lastReference(paths, path);
  if (isCallers(paths, path)) {
    const named = reference?.files.filter((file) => isCallers(paths, file.path)) ?? [];
    for (const file of named) await holdName(file.path);
  }
  const same = reference?.files.every((file) => fingerprint(file.path).stat === file.stat);
  return same === true ? reference : undefined;
}

export function lastReference(paths: StatePaths, path: string): Reference | undefined {
  const reference = findCached(referenceFile(paths, path), takeReference);
  return reference?.format === FORMAT && reference.path === path ? reference : undefined;
}

const takeReference = withFields<Reference>({ path: 'string', image: 'string', files: 'array' });

/** A recipe or lock that became this image last. */
export async function sourceOf(paths: StatePaths, image: string): Promise<string | undefined> {
  const folder = join(paths.store, 'references');
  for (const name of await readdir(folder).catch(() => [])) {
    const { value } = findRecord(join(folder, name), takeReference);
    if (value?.image === image && existsSync(value.path)) return value.path;
  }
  return undefined;
}

export async function writeReference(
  paths: StatePaths,
  path: string,
  image: string,
  files: readonly Fingerprint[],
): Promise<void> {
  const reference: Reference = { format: FORMAT, path, image, files };
  const file = referenceFile(paths, path);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  writeRecord(file, reference);
}

export function fingerprint(path: string): Fingerprint {
  const stat = statSync(foundAt(path), { bigint: true, throwIfNoEntry: false });
  return { path, stat: stat ? `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}` : null };
}

function referenceFile(paths: StatePaths, path: string): string {
  return join(paths.store, 'references', `${shortHash(path)}.json`);
}
