/**
 * Which image a recipe or a lock last became: so that `kiln run` neither parses nor solves while
 * nothing has changed.
 */
import { statSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { shortHash } from '../kernel/short-hash.ts';
import type { Engine } from '../sandbox/open.ts';
import { dropCached, findRecord, withFields, writeRecord } from '../state/checked-file.ts';
import type { StatePaths } from '../state/paths.ts';
import { type NamedImage, resolveImage } from './find.ts';
import type { OnImageProgress } from './progress.ts';
import { type LeasedImage, leaseImage } from './store/images.ts';
import { findContents } from './store/manifest.ts';

export interface OpenImageOptions {
  /** Solve anew, with fresh metadata, and without the lock that lies beside the recipe. */
  readonly update?: boolean;
  /** Solve with the metadata that is here, and ask no server. */
  readonly offline?: boolean;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Takes the image that `name` means into use if there is one that is known to be current; nothing is
 * built. `cwd` is where relative paths and recipes' names are looked for.
 * @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS
 */
export async function openExistingImage(
  paths: StatePaths,
  name: string,
  cwd: string,
): Promise<LeasedImage | undefined> {
  return await leaseExisting(paths, await resolveImage(paths, name, cwd));
}

async function leaseExisting(
  paths: StatePaths,
  named: NamedImage,
): Promise<LeasedImage | undefined> {
  const id = named.kind === 'image' ? named.id : readReference(paths, named.path);
  const leased = id === undefined ? undefined : await leaseImage(paths, id);
  if (leased === undefined || named.kind === 'image') return leased;
  // Whoever makes it anew from its recipe writes down again what it is made of.
  if (findContents(paths, leased.manifest.id).value !== undefined) return leased;
  await leased[Symbol.asyncDispose]();
  return undefined;
}

function unusable(id: string): KilnError {
  return new KilnError('E_IMAGE_MISSING', `image ${id} cannot be used any more`, {
    hint: 'build it again from its recipe',
  });
}

/**
 * Takes the image that `name` means (see {@link resolveImage}) into use. What is known to be
 * current is used as it is; else it is solved and built.
 * @throws KilnError: everything that can be wrong with a recipe, repositories, packages, scriptlets.
 */
export async function openImage(
  engine: Engine,
  name: string,
  options: OpenImageOptions = {},
): Promise<LeasedImage> {
  const named = await resolveImage(engine.paths, name, engine.cwd());
  const existing = options.update === true ? undefined : await leaseExisting(engine.paths, named);
  if (existing !== undefined) return existing;
  if (named.kind === 'image') throw unusable(named.id);
  // Recipes, repositories and the solver are loaded only where something is to be made.
  const { buildNamed } = await import('./plan.ts');
  return await buildNamed(engine, named, options);
}

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
function readReference(paths: StatePaths, path: string): string | undefined {
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
