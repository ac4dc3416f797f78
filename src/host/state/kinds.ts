/**
 * Every kind of file below KILN_STATE that kiln reads back, and what is done about a damaged one. A test makes
 * a state with real commands and fails on files of no known kind.
 */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { unlessErrno } from '../calls/attempt.ts';
import { shortHashOf } from '../process/short-hash.ts';
import { dropCached, findRecord, readRecord, readSealed } from './checked-file.ts';
import { DamagedFileError, tellDamage } from './damage.ts';
import type { StatePaths } from './paths.ts';

type Care =
  | 'cached record'
  /** Bytes with a checksum at the end: deleted when damaged, and made anew. */
  | 'sealed'
  /** Compared with its digest at each use, and made anew if it differs. */
  | 'checked when used'
  | 'record'
  /** header.rpm, whose checksum is in the package.json beside it. */
  | 'header'
  | 'definition'
  | 'no content'
  /** The files of images, roots and services: see `kiln gc --verify`. */
  | 'tree'
  /** A file that is being written. After a day it belongs to a killed process. */
  | 'half written'
  | 'not read';

interface StateKind {
  readonly pattern: RegExp;
  readonly care: Care;
  readonly mend?: string;
}

const HEX = '[0-9a-f]+';

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
    pattern: kind(`services/[^/.][^/]*/(previous/)?image.json`),
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

function kind(pattern: string): RegExp {
  return new RegExp(
    `^(?:users/\\d+/(?=cache/))?(?:${pattern.replaceAll('.json', '\\.json')})$`,
    's',
  );
}

export function kindOf(path: string): StateKind | undefined {
  return KINDS.find(({ pattern }) => pattern.test(path));
}

interface FoundDamage {
  readonly kind: StateKind;
  readonly error: DamagedFileError;
}

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

function* entries(root: string, folder: string): Generator<KnownEntry> {
  for (const entry of list(join(root, folder))) {
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    const kind = kindOf(path);
    const isDirectory = entry.isDirectory();
    if (kind !== undefined) yield { path: join(root, path), kind, isDirectory };
    else if (isDirectory && !isTree(path)) yield* entries(root, path);
  }
}

const CACHES: ReadonlySet<Care> = new Set(['cached record', 'sealed', 'checked when used']);

/** Milliseconds: then an unfinished file belongs to a killed process. */
const ABANDONED = 24 * 60 * 60 * 1000;

/**
 * Deletes damaged files of caches, and unfinished ones of killed processes; for others reports what mends them.
 * Returns how many are damaged.
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
  const { header } = findRecord<{ readonly header?: string }>(entry).value ?? {};
  if (header === undefined || shortHashOf(readFileSync(path)) === header) return;
  throw new DamagedFileError(path, 'its checksum is another one');
}

function list(folder: string) {
  const read = () => readdirSync(folder, { withFileTypes: true });
  return unlessErrno(['ENOENT', 'ENOTDIR'], read) ?? [];
}
