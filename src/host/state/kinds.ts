/**
 * Every kind of file below KILN_STATE that kiln reads back, and what is done about a damaged one. A test makes
 * a state with real commands and fails on files of no known kind.
 */
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../../defined.ts';
import { unlessErrno } from '../calls/libc.ts';
import { shortHash } from '../process/short-hash.ts';
import { drop, findRecord, readRecord } from './checked-file.ts';
import { DamagedFileError, tellDamage } from './damage.ts';
import type { StateRoot } from './paths.ts';

type Care =
  | 'cached record'
  /** Compared with its digest at each use, and made anew if it differs. */
  | 'checked when used'
  | 'record'
  /** A record of damage that was found in what lies beside it. */
  | 'mark'
  /** A record, with the image's tree beside it. */
  | 'image'
  /** header.rpm, whose checksum is in the package.json beside it. */
  | 'header'
  | 'definition'
  | 'no content'
  /** The files of images, roots and services: see `kiln gc --verify`. */
  | 'tree'
  /** A file that is being written. After a day it belongs to a killed process. */
  | 'half written'
  | 'not read';

export interface StateKind {
  readonly pattern: RegExp;
  readonly care: Care;
  /** What becomes of it, where `kiln gc` does not just make it anew. */
  readonly mend?: string;
}

const HEX = '[0-9a-f]+';

export const UNPACKED_AGAIN = 'the package is unpacked again when it is needed';

/** The first that fits counts. */
export const KINDS: readonly StateKind[] = [
  kind(
    'half written',
    '(store|store/references|store/roots/[^/]+|services/[^/]+|skeleton/[^/]+|cache/(?!builds/).*)/[^/]+\\.(tmp|new)',
  ),
  kind('mark', `store/(packages|images)/[^/]+/damaged.json`, 'it is made again when it is needed'),
  kind('cached record', 'store/damage.json', '`kiln gc --verify` finds again what it told of'),
  kind('record', 'store/packages/[^/]+/package.json', UNPACKED_AGAIN),
  kind('header', 'store/packages/[^/]+/header.rpm', UNPACKED_AGAIN),
  kind('cached record', 'store/packages/[^/]+/checks.json'),
  kind('no content', 'store/packages/[^/]+/(open|reader-\\d+)'),
  kind('tree', 'store/packages/[^/]+/tree/.*'),
  kind('image', `store/images/${HEX}/image.json`, 'the image is made again when it is needed'),
  kind('record', `store/images/${HEX}/contents.json`, '`kiln image build` writes it again'),
  kind(
    'cached record',
    `store/images/${HEX}/owner-\\d+.json`,
    'whoever makes the image again owns it again',
  ),
  kind('no content', `store/images/${HEX}/lease`),
  kind('tree', `store/images/${HEX}(/tree|\\.replaced-${HEX})/.*`),
  kind(
    'record',
    'store/roots/[^/]+/(root|packages).json',
    'the root is made again when it is opened',
  ),
  kind('tree', 'store/roots/[^/]+/scratch/.*'),
  kind('cached record', `store/references/${HEX}.json`),
  kind('cached record', 'store/sync-points.json'),
  kind('no content', 'store/locks/.*'),
  kind('not read', 'store/(trash|work)/.*'),
  kind('cached record', 'cache/(bases|names|requires|roots)/[^/]+.json'),
  kind('cached record', 'cache/seccomp/[^/]+.json'),
  kind('tree', 'cache/builds/.*'),
  kind('not read', 'mock/[^/]+/result/.*'),
  kind('cached record', `cache/solutions/${HEX}.json`),
  kind('cached record', 'cache/solv/[^/]+.groups.json'),
  kind('checked when used', 'cache/solv/[^/]+.(?:solvx?|modules)'),
  kind('no content', 'cache/solv/[^/]+.lock'),
  kind('cached record', 'cache/repositories/[^/]+/state.json'),
  kind('no content', 'cache/repositories/[^/]+/lock'),
  kind('checked when used', `cache/objects/[^/]+/[^/]+/${HEX}`),
  kind('checked when used', 'cache/partial/[^/]+'),
  kind('checked when used', 'skeleton/[^/]+/kiln-init(.json)?'),
  kind('not read', 'machines/.*'),
  kind('definition', 'services/[^/.][^/]*/service.yaml'),
  kind(
    'record',
    'services/[^/.][^/]*/(previous/)?image.json',
    '`kiln service upgrade` gives the service an image again',
  ),
  kind(
    'cached record',
    'services/[^/.][^/]*/outcome.json',
    'the next run of the service writes it again',
  ),
  kind('no content', 'services/[^/.][^/]*/[^/]+.lock'),
  kind('not read', 'services/[^/.][^/]*/log/.*'),
  kind('tree', 'services/[^/.][^/]*/(previous/)?(var.ext4|(etc|var)/.*)'),
  kind('not read', 'services/\\..*'),
  kind('not read', 'libvirt/.*'),
  kind('not read', 'io.kiln|kilnd([.]1)?.log|kilnd.lock'),
  kind('not read', 'jobs/.*'),
  kind('not read', 'events/[0-9]+([.]1)?.jsonl'),
  kind(
    'record',
    'users/\\d+/account.json',
    '`kiln user confirm` writes it again; until then the user is refused',
  ),
  kind('no content', 'detached.lock'),
  kind(
    'record',
    `detached/${HEX}/job.json`,
    'nobody finds this job any more, and `kiln gc` removes it',
  ),
  kind('no content', `detached/${HEX}/lock`),
  kind('not read', `detached/${HEX}/(output-[0-9]+|reserve|results/.*)`),
  kind('checked when used', 'mock/recipes/[^/]+/[^/]+.yaml'),
  kind('not read', '.*\\.damaged(/.*)?'),
  kind(
    'cached record',
    `store/images/${HEX}/own-files.json`,
    '`kiln gc --verify` asks for the image to be made anew',
  ),
  kind('tree', `store/snapshots/${HEX}/tree/.*`),
  kind('no content', `store/snapshots/${HEX}/lease`),
  kind(
    'record',
    `store/snapshots/${HEX}/snapshot.json`,
    'nobody can use this snapshot any more, and `kiln gc` removes it',
  ),
  kind('no content', 'events/lock'),
  kind('not read', 'events/[0-9]+.totals.json'),
  kind('tree', 'store/written/.*'),
  kind(
    'record',
    'store/roots/[^/]+/packages-[0-9a-f]+.json',
    'the root cannot go back to the snapshot that names it',
  ),
];

function kind(care: Care, pattern: string, mend?: string): StateKind {
  const files = `^(?:users/\\d+/(?=cache/))?(?:${pattern.replaceAll('.json', '\\.json')})$`;
  return { pattern: new RegExp(files, 's'), care, ...defined({ mend }) };
}

export function kindOf(path: string): StateKind | undefined {
  return KINDS.find(({ pattern }) => pattern.test(path));
}

/** `file` is kiln's own that tells of it, which `error` names, unless that tells of another. */
export function findDamage(paths: StateRoot) {
  return [...entries(paths.root, '')].flatMap(({ path: file, kind, isDirectory }) => {
    const error = damageOf(kind.care, file, isDirectory);
    return error === undefined ? [] : [{ kind, error, file }];
  });
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

const CACHES: ReadonlySet<Care> = new Set(['cached record', 'checked when used']);

/** Milliseconds: then an unfinished file belongs to a killed process. */
const ABANDONED = 24 * 60 * 60 * 1000;

/**
 * Deletes damaged files of caches, and unfinished ones of killed processes; for others reports what mends them.
 * Returns how many are damaged.
 */
export function mendDamage(paths: StateRoot): number {
  for (const { path, kind, isDirectory } of entries(paths.root, '')) {
    if (kind.care !== 'half written' || isDirectory) continue;
    const written = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
    if (written !== undefined && Date.now() - written > ABANDONED) rmSync(path, { force: true });
  }
  const found = findDamage(paths);
  for (const { kind, error } of found) {
    if (CACHES.has(kind.care)) drop(error, kind.mend);
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
    if (RECORDS.has(care)) readRecord(path);
    if (care === 'mark') return markedDamage(path);
    if (care === 'image') checkTree(path.replace(/image\.json$/, 'tree'));
    if (care === 'header') checkHeader(path);
    if (care === 'checked when used' && isDirectory) {
      throw new DamagedFileError(path, 'it is a folder');
    }
    return undefined;
  } catch (error) {
    if (error instanceof DamagedFileError) return error;
    throw error;
  }
}

const RECORDS: ReadonlySet<Care> = new Set(['record', 'cached record', 'image']);

/** What a record of damage says; one that cannot be read is the damage. */
function markedDamage(path: string): DamagedFileError | undefined {
  const found = readRecord<{ readonly path?: string; readonly why?: string }>(path);
  return found && new DamagedFileError(found.path ?? path, found.why ?? 'it is not whole');
}

function checkTree(path: string): void {
  if (!existsSync(path)) throw new DamagedFileError(path, 'it is gone');
}

function checkHeader(path: string): void {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) {
    throw new DamagedFileError(path, 'it is a folder');
  }
  const entry = path.replace(/header\.rpm$/, 'package.json');
  const { header } = findRecord<{ readonly header?: string }>(entry).value ?? {};
  if (header === undefined || shortHash(readFileSync(path)) === header) return;
  throw new DamagedFileError(path, 'its checksum is another one');
}

function list(folder: string) {
  const read = () => readdirSync(folder, { withFileTypes: true });
  return unlessErrno(['ENOENT', 'ENOTDIR'], read) ?? [];
}
