/** An entry of the package store: a folder with an unpacked package, its header, and a record about it. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../../defined.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { shortHashOf } from '../../host/process/short-hash.ts';
import { findRecord, writeRecord } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { takePackage } from '../../packages/rpm/check.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import { currentMoment, isDurable, type Moment } from './durability.ts';

/** Raised when the content of an entry, or the way of unpacking, changes. */
const ENTRY_FORMAT = 4;

/** A verified, unpacked package of the store. */
export interface StoredPackage {
  /** `sha256:…` of the package file. */
  readonly digest: string;
  readonly package: RpmPackage;
  /** The package's files at their paths, all owned by root. Never write to them. */
  readonly tree: string;
  /** A file that holds lead, signature and header, for `rpm --justdb`. */
  readonly header: string;
  /** Sentences about files that were not unpacked (devices). */
  readonly warnings: readonly string[];
}

/** The record of an entry (package.json). */
interface Entry {
  readonly format: number;
  readonly made: Moment;
  readonly package: RpmPackage;
  readonly warnings: readonly string[];
  /** Checksum of header.rpm; older entries have none. */
  readonly header?: string;
}

/** The folder of a package in the store, named by its digest. */
export function packageDirectory(paths: StatePaths, digest: string): string {
  return join(paths.packages, digest.replace(/^sha256:/, '').replace(':', '-'));
}

/** The record of an entry; its mtime is the last use. */
export function entryFile(directory: string): string {
  return `${directory}/package.json`;
}

/** Bytes of a package's files; undefined for a damaged entry. */
export function installedSize(directory: string): number | undefined {
  const take = (value: object) =>
    (value as { package?: { installedSize?: number } }).package?.installedSize;
  return findRecord(entryFile(directory), take).value;
}

/** A package of the store; undefined if it is missing or cannot be relied on. */
export function readStoredPackage(paths: StatePaths, digest: string): StoredPackage | undefined {
  const directory = packageDirectory(paths, digest);
  const { value, damage } = findRecord(entryFile(directory), takeEntry);
  if (damage !== undefined) {
    tellDamage({ path: damage.path, why: damage.why, done: UNPACKED_ANEW });
    return undefined;
  }
  if (value === undefined || !isDurable(paths, value.made) || !hasWholeHeader(directory, value)) {
    return undefined;
  }
  return storedPackage(directory, digest, value.package, value.warnings);
}

const UNPACKED_ANEW = 'the package is unpacked anew';

/** Undefined for a record of another version of kiln: the package is unpacked again. */
function takeEntry(value: object): Entry | undefined {
  const entry = value as Entry;
  if (entry.format !== ENTRY_FORMAT) return undefined;
  return { ...entry, package: takePackage(entry.package) };
}

/**
 * Whether the header is unchanged. If not, the package is unpacked again, because rpm's database is made from
 * headers.
 */
function hasWholeHeader(directory: string, { header }: Entry): boolean {
  if (header === undefined) return true;
  const path = `${directory}/header.rpm`;
  const found = checksumOf(path);
  if (found === header) return true;
  const why = found === undefined ? 'it cannot be read' : 'its checksum is another one';
  tellDamage({ path, why, done: UNPACKED_ANEW });
  return false;
}

function checksumOf(path: string): string | undefined {
  try {
    return shortHashOf(readFileSync(path));
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) return undefined;
    throw error;
  }
}

export function storedPackage(
  directory: string,
  digest: string,
  of: RpmPackage,
  warnings: readonly string[],
): StoredPackage {
  return {
    digest,
    package: of,
    tree: `${directory}/tree`,
    header: `${directory}/header.rpm`,
    warnings,
  };
}

/** Writes an entry's record beside the unpacked package and its header. */
export function writeEntry(directory: string, of: RpmPackage, warnings: readonly string[]): void {
  const made = currentMoment();
  const header = checksumOf(`${directory}/header.rpm`);
  const entry: Entry = {
    format: ENTRY_FORMAT,
    made,
    package: of,
    warnings,
    ...defined({ header }),
  };
  writeRecord(entryFile(directory), entry);
}
