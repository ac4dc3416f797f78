/**
 * Every kind of file below KILN_STATE that kiln writes and reads back, and what is done about a damaged one. A
 * new kind needs a line here: a test makes a state with real commands and fails on files of no known kind.
 */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { hasErrno } from '../calls/libc.ts';
import { shortHashOf } from '../process/short-hash.ts';
import { dropCached, readRecord, readSealed } from './checked-file.ts';
import { DamagedFileError, tellDamage } from './damage.ts';
import type { StatePaths } from './paths.ts';

/** How damage to a kind of file is handled. */
type Care =
  /** A record of a cache: a damaged one is deleted and made anew. */
  | 'cached record'
  /** Bytes of a cache with a checksum at the end: a damaged file is deleted and made anew. */
  | 'sealed'
  /** Compared with its digest at each use, and made anew if it differs. */
  | 'checked when used'
  /** A record; `mend` says what to do about a damaged one. */
  | 'record'
  /** header.rpm, whose checksum is in the package.json beside it. */
  | 'header'
  /** Written by a person: the reader reports mistakes, for this object only. */
  | 'definition'
  /** The content has no meaning. */
  | 'no content'
  /** The files of images, roots and services: see `kiln gc --verify`. */
  | 'tree'
  /** A file that is being written. After a day it belongs to a killed process. */
  | 'half written'
  /** A file of libvirt's, a log, or trash: kiln does not read it back. */
  | 'not read';

/** A kind of file, or a folder whose content is of one kind. */
interface StateKind {
  /** Matches the path below KILN_STATE. */
  readonly pattern: RegExp;
  readonly care: Care;
  /** What mends it, where kiln does not mend it by itself. */
  readonly mend?: string;
}

const HEX = '[0-9a-f]+';

/** The first match counts. */
export const KINDS: readonly StateKind[] = [
  {
    pattern: kind(
      `(store|store/references|store/roots/[^/]+|services/[^/]+|skeleton/[^/]+|cache/(?!builds/).*)/[^/]+\\.(tmp|new)`,
    ),
    care: 'half written',
  },
  {
    pattern: kind(`store/packages/[^/]+/package.json`),
    care: 'record',
    mend: 'the package is unpacked anew when it is wanted',
  },
  {
    pattern: kind(`store/packages/[^/]+/header.rpm`),
    care: 'header',
    mend: 'the package is unpacked anew when it is wanted',
  },
  { pattern: kind(`store/packages/[^/]+/checks.json`), care: 'cached record' },
  { pattern: kind(`store/packages/[^/]+/(open|reader-\\d+)`), care: 'no content' },
  { pattern: kind(`store/packages/[^/]+/tree/.*`), care: 'tree' },
  {
    pattern: kind(`store/images/${HEX}/image.json`),
    care: 'record',
    mend: 'the image is made anew when it is wanted',
  },
  {
    pattern: kind(`store/images/${HEX}/contents.json`),
    care: 'record',
    mend: '`kiln image build` writes it anew',
  },
  {
    pattern: kind(`store/images/${HEX}/owner-\\d+.json`),
    care: 'record',
    mend: 'whoever makes the image again owns it again',
  },
  { pattern: kind(`store/images/${HEX}/lease`), care: 'no content' },
  { pattern: kind(`store/images/${HEX}(/tree|\\.replaced-${HEX})/.*`), care: 'tree' },
  {
    pattern: kind(`store/roots/[^/]+/(root|packages).json`),
    care: 'record',
    mend: 'the root is made anew when it is opened',
  },
  { pattern: kind(`store/roots/[^/]+/scratch/.*`), care: 'tree' },
  { pattern: kind(`store/references/${HEX}.json`), care: 'cached record' },
  { pattern: kind(`store/sync-points.json`), care: 'cached record' },
  { pattern: kind(`store/locks/.*`), care: 'no content' },
  { pattern: kind(`store/(trash|work)/.*`), care: 'not read' },
  { pattern: kind(`cache/(bases|names|requires|roots)/[^/]+`), care: 'sealed' },
  { pattern: kind(`cache/builds/.*`), care: 'tree' },
  { pattern: kind(`mock/[^/]+/result/.*`), care: 'not read' },
  { pattern: kind(`cache/seccomp/[^/]+.bpf`), care: 'sealed' },
  { pattern: kind(`cache/solutions/${HEX}.json`), care: 'cached record' },
  { pattern: kind(`cache/solv/[^/]+.groups.json`), care: 'cached record' },
  { pattern: kind(`cache/solv/[^/]+.(?:solvx?|modules)`), care: 'checked when used' },
  { pattern: kind(`cache/solv/[^/]+.lock`), care: 'no content' },
  { pattern: kind(`cache/repositories/[^/]+/state.json`), care: 'cached record' },
  { pattern: kind(`cache/repositories/[^/]+/lock`), care: 'no content' },
  { pattern: kind(`cache/objects/[^/]+/[^/]+/${HEX}`), care: 'checked when used' },
  { pattern: kind(`cache/partial/[^/]+`), care: 'checked when used' },
  { pattern: kind(`skeleton/[^/]+/kiln-init(.json)?`), care: 'checked when used' },
  { pattern: kind(`services/[^/.][^/]*/service.yaml`), care: 'definition' },
  {
    pattern: kind(`services/[^/.][^/]*/image.json`),
    care: 'record',
    mend: '`kiln service upgrade` gives the service an image again',
  },
  {
    pattern: kind(`services/[^/.][^/]*/previous/image.json`),
    care: 'record',
    mend: '`kiln service upgrade` gives the service an image again',
  },
  {
    pattern: kind(`services/[^/.][^/]*/outcome.json`),
    care: 'record',
    mend: 'the next run of the service writes it anew',
  },
  { pattern: kind(`services/[^/.][^/]*/[^/]+.lock`), care: 'no content' },
  { pattern: kind(`services/[^/.][^/]*/log/.*`), care: 'not read' },
  { pattern: kind(`services/[^/.][^/]*/(previous/)?(var.ext4|(etc|var)/.*)`), care: 'tree' },
  { pattern: kind(`services/\\..*`), care: 'not read' },
  { pattern: kind(`libvirt/.*`), care: 'not read' },
  { pattern: kind(`io.kiln|kilnd.log|kilnd.lock`), care: 'not read' },
  { pattern: kind(`jobs/.*`), care: 'not read' },
  {
    pattern: kind(`detached/${HEX}/job.json`),
    care: 'record',
    mend: 'nobody finds this job any more, and `kiln gc` removes it',
  },
  { pattern: kind(`detached/${HEX}/lock`), care: 'no content' },
  { pattern: kind(`detached/${HEX}/(output-[0-9]+|results/.*)`), care: 'not read' },
  { pattern: kind(`mock/recipes/[^/]+/[^/]+.yaml`), care: 'checked when used' },
  { pattern: kind(`.*\\.damaged(/.*)?`), care: 'not read' },
];

/** A user's cache is like that of all. */
function kind(pattern: string): RegExp {
  return new RegExp(
    `^(?:users/\\d+/(?=cache/))?(?:${pattern.replaceAll('.json', '\\.json')})$`,
    's',
  );
}

/** The kind of the file with this path below KILN_STATE; undefined for an unknown file. */
export function kindOf(path: string): StateKind | undefined {
  return KINDS.find(({ pattern }) => pattern.test(path));
}

/** A damaged file. */
interface FoundDamage {
  readonly kind: StateKind;
  readonly error: DamagedFileError;
}

/**
 * Checks every small file of a state. Large files (downloads, converted metadata, the trees of images) are
 * checked when they are used. Changes nothing.
 */
export function findDamage(paths: Pick<StatePaths, 'root'>): FoundDamage[] {
  const found: FoundDamage[] = [];
  for (const { path, kind, isDirectory } of entries(paths.root, '')) {
    const error = damageOf(kind.care, path, isDirectory);
    if (error !== undefined) found.push({ kind, error });
  }
  return found;
}

interface KnownEntry {
  readonly path: string;
  readonly kind: StateKind;
  readonly isDirectory: boolean;
}

/** The entries of a known kind. What is below a directory of such a kind is skipped. */
function* entries(root: string, folder: string): Generator<KnownEntry> {
  for (const entry of list(join(root, folder))) {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    const kind = kindOf(path);
    const isDirectory = entry.isDirectory();
    if (kind !== undefined) yield { path: join(root, path), kind, isDirectory };
    else if (isDirectory && !isTree(path)) yield* entries(root, path);
  }
}

/** Kinds that are made again when they are missing. */
const CACHES: ReadonlySet<Care> = new Set(['cached record', 'sealed', 'checked when used']);

/** After this time, milliseconds, an unfinished file belongs to a killed process. */
const ABANDONED = 24 * 60 * 60 * 1000;

/**
 * Deletes damaged files of caches and reports them. For others, reports what mends them. Deletes unfinished
 * files of killed processes. Returns how many damaged files there are.
 */
export function mendDamage(paths: Pick<StatePaths, 'root'>): number {
  for (const { path, kind, isDirectory } of entries(paths.root, '')) {
    if (kind.care !== 'half written' || isDirectory) continue;
    const written = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (written !== undefined && Date.now() - written > ABANDONED) rmSync(path, { force: true });
  }
  const found = findDamage(paths);
  for (const { kind, error } of found) {
    if (CACHES.has(kind.care)) dropCached(error);
    else if (kind.mend !== undefined) {
      tellDamage({ path: error.path, why: error.why, done: kind.mend });
    }
  }
  return found.length;
}

function isTree(folder: string): boolean {
  const care = kindOf(`${folder}/x`)?.care;
  return care === 'tree' || care === 'not read' || care === 'no content';
}

function damageOf(care: Care, path: string, isDirectory: boolean): DamagedFileError | undefined {
  try {
    if (care === 'sealed') readSealed(path);
    if (care === 'record' || care === 'cached record') readRecord(path);
    if (care === 'header') checkHeader(path);
    if (care === 'checked when used' && isDirectory) {
      throw new DamagedFileError(path, 'it is a directory');
    }
    return undefined;
  } catch (error) {
    if (error instanceof DamagedFileError) return error;
    throw error;
  }
}

function checkHeader(path: string): void {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) {
    throw new DamagedFileError(path, 'it is a directory');
  }
  const entry = path.replace(/header\.rpm$/, 'package.json');
  const { header } = (known(entry) ?? {}) as { readonly header?: string };
  if (header === undefined || shortHashOf(readFileSync(path)) === header) return;
  throw new DamagedFileError(path, 'its checksum is another one');
}

/** Damage to package.json is reported for that file itself. */
function known(path: string): object | undefined {
  try {
    return readRecord(path);
  } catch (error) {
    if (error instanceof DamagedFileError) return undefined;
    throw error;
  }
}

function list(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  }
}
