/** An entry of the package store: a folder with an unpacked package, its header, and a file that says what it is. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { hasErrno } from '../../kernel/libc.ts';
import type { RpmPackage } from '../../rpm/package.ts';
import { fromWire } from '../../rpm/unwire.ts';
import type { StatePaths } from '../../state/paths.ts';
import { currentMoment, isDurable, type Moment } from './durability.ts';

/** Raised when what an entry of the store holds, or how it was unpacked, changes. */
const ENTRY_FORMAT = 3;
/** Its signatures do not say the fingerprint of their key. */
const NO_FINGERPRINTS_FORMAT = 2;
/** Its package has an object for each file. */
const ROWS_FORMAT = 1;

/** A verified, unpacked package of the store. */
export interface StoredPackage {
  /** `sha256:…` of the package file. */
  readonly digest: string;
  readonly package: RpmPackage;
  /** Its files, root's all of them, where their paths say. Never to be written to. */
  readonly tree: string;
  /** A file that holds lead, signature and header, for `rpm --justdb`. */
  readonly header: string;
  /** What could not be unpacked (devices), as sentences. */
  readonly warnings: readonly string[];
}

/** An entry's own file (package.json). */
interface Entry {
  readonly format: number;
  readonly made: Moment;
  /** As `toWire` makes it; in an older format an RpmPackage. */
  readonly package: object;
  readonly warnings: readonly string[];
}

/** The folder of a package in the store, named by its digest. */
export function packageDirectory(paths: StatePaths, digest: string): string {
  // Not join(), which takes longer than to read the file in it.
  return `${paths.packages}/${digest.replace(/^sha256:/, '').replace(':', '-')}`;
}

/** The file of an entry that says what it is; its mtime is the last use. */
export function entryFile(directory: string): string {
  return `${directory}/package.json`;
}

/** Whether there is anything of a package; what it is worth shows when it is read. */
export function hasEntry(paths: StatePaths, digest: string): boolean {
  return existsSync(entryFile(packageDirectory(paths, digest)));
}

/** What the store has of a package; undefined if that is nothing, or nothing to rely on. */
export function readStoredPackage(paths: StatePaths, digest: string): StoredPackage | undefined {
  const directory = packageDirectory(paths, digest);
  let text: string;
  try {
    text = readFileSync(entryFile(directory), 'utf8');
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
  const entry = parseEntry(text);
  if (entry === undefined || !isDurable(paths, entry.made)) return undefined;
  return storedPackage(directory, digest, entry.package, entry.warnings);
}

/** Undefined for one that is damaged, or of another kiln: it is made anew. */
function parseEntry(text: string): (Entry & { readonly package: RpmPackage }) | undefined {
  try {
    const entry = JSON.parse(text) as Entry;
    if (entry.format === ENTRY_FORMAT) return { ...entry, package: fromWire(entry.package) };
    if (entry.format === NO_FINGERPRINTS_FORMAT) {
      return { ...entry, package: fromWire(withFingerprints(entry.package)) };
    }
    return entry.format === ROWS_FORMAT
      ? { ...entry, package: entry.package as RpmPackage }
      : undefined;
  } catch {
    return undefined;
  }
}

/** A package of an older format; which keys it was checked with nobody has noted, either. */
function withFingerprints(wire: object): object {
  const { signatures } = wire as { signatures: readonly object[] };
  return { ...wire, signatures: signatures.map((one) => ({ ...one, fingerprint: null })) };
}

/** The package whose entry is in `directory`. */
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

/**
 * Writes what an entry's folder is to have beside the unpacked package and its header.
 * @param wire the package as {@link fromWire} takes it, which checks it whenever it is read
 */
export function writeEntry(directory: string, wire: object, warnings: readonly string[]): void {
  const made = currentMoment();
  const entry: Entry = { format: ENTRY_FORMAT, made, package: wire, warnings };
  writeFileSync(entryFile(directory), JSON.stringify(entry));
}
