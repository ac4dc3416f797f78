/** The package store: each entry is a folder with an unpacked package, its header, and a record. */
import { existsSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { readInto } from '../../host/files/content.ts';
import { shortHash } from '../../host/process/short-hash.ts';
import { findRecord, writeRecord } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import { UNPACKED_AGAIN } from '../../host/state/kinds.ts';
import { pathsOfUser, type StatePaths } from '../../host/state/paths.ts';
import type { Reach } from '../../packages/repository/transport/reach.ts';
import { type RpmPackage, takePackage } from '../../packages/rpm/package.ts';
import { currentMoment, isDurable, type Moment } from './durability.ts';
import { type KnownDamage, knownDamage } from './mark.ts';

const ENTRY_FORMAT = 4;

export interface StoredPackage {
  readonly digest: string;
  readonly package: RpmPackage;
  /** The files at their paths, all owned by root. Never write to them. */
  readonly tree: string;
  /** Lead, signature and header, for `rpm --justdb`. */
  readonly header: string;
  /** Of its folder: one that is unpacked anew has another. */
  readonly inode: number;
}

interface Entry {
  readonly format: number;
  readonly made: Moment;
  readonly package: RpmPackage;
  /** The checksum of header.rpm. */
  readonly header: string | undefined;
}

export function packageDirectory(paths: StatePaths, digest: string): string {
  return join(paths.packages, digest.replace(/^sha256:/, '').replace(':', '-'));
}

/** Its mtime is the last use. */
export function entryFile(directory: string): string {
  return `${directory}/package.json`;
}

/** Bytes of its files; hard links count once. */
export function contentSize({ files }: RpmPackage): number {
  const linked = new Set<string>();
  let sum = 0;
  for (const { type, size, nlink, device, inode, digest } of files) {
    if (type !== 'file') continue;
    const key = `${device}:${inode}:${digest}`;
    if (nlink > 1 && linked.has(key)) continue;
    linked.add(key);
    sum += size;
  }
  return sum;
}

export function installedSize(directory: string): number | undefined {
  const take = (value: object) =>
    (value as { package?: { installedSize?: number } }).package?.installedSize;
  return findRecord(entryFile(directory), take).value;
}

export function readStoredPackage(paths: StatePaths, digest: string): StoredPackage | undefined {
  const directory = packageDirectory(paths, digest);
  const { value, damage: unreadable } = findRecord(entryFile(directory), takeEntry);
  const damage =
    knownDamage(directory) ?? unreadable ?? (value && damagedHeader(directory, value.header));
  if (damage !== undefined)
    tellDamage({ path: damage.path, why: damage.why, done: UNPACKED_AGAIN });
  if (damage !== undefined || value === undefined || !isDurable(paths, value.made)) {
    return undefined;
  }
  return storedPackage(directory, digest, value.package);
}

/** Whether the package was used for an image that is being made: it is neither damaged since, nor unpacked anew. */
export function isStillStored(paths: StatePaths, { digest, inode }: StoredPackage): boolean {
  const directory = packageDirectory(paths, digest);
  const found = statSync(directory, { throwIfNoEntry: false });
  return found?.ino === inode && knownDamage(directory) === undefined;
}

/** What the header says of a package, whatever else is wrong with it; undefined where kiln has no good record of it. */
export function readEntry(paths: StatePaths, directory: string): RpmPackage | undefined {
  const { value } = findRecord(entryFile(directory), takeEntry);
  return value !== undefined && isDurable(paths, value.made) ? value.package : undefined;
}

/** Known damage, and that of kiln's own files; the package's are not looked at. */
export function packageDamage(directory: string): KnownDamage | undefined {
  const path = entryFile(directory);
  if (!existsSync(path)) return knownDamage(directory) ?? { path, why: 'it is gone' };
  const isOwn = ({ format }: Entry) => format === ENTRY_FORMAT;
  const take = (value: object) => (isOwn(value as Entry) ? (value as Entry) : undefined);
  const { value, damage } = findRecord(path, take);
  return knownDamage(directory) ?? damage ?? (value && damagedHeader(directory, value.header));
}

function takeEntry(value: object): Entry | undefined {
  const entry = value as Entry;
  if (entry.format !== ENTRY_FORMAT) return undefined;
  return { ...entry, package: takePackage(entry.package) };
}

/** The database of rpm is made from headers. */
function damagedHeader(directory: string, header: string | undefined): KnownDamage | undefined {
  const path = `${directory}/header.rpm`;
  const found = checksumOf(path);
  if (found !== undefined && found === header) return undefined;
  const why = found === undefined ? 'it cannot be read' : 'its checksum is another one';
  return { path, why };
}

function checksumOf(path: string): string | undefined {
  return unlessErrno(['ENOENT', 'ENOTDIR', 'EISDIR'], () => shortHash(readFileSync(path)));
}

export function storedPackage(directory: string, digest: string, of: RpmPackage): StoredPackage {
  return {
    digest,
    package: of,
    tree: `${directory}/tree`,
    header: `${directory}/header.rpm`,
    inode: statSync(directory).ino,
  };
}

export function writeEntry(directory: string, file: string, of: RpmPackage): void {
  copyHeader(file, `${directory}/header.rpm`, of.headerRange.end);
  const entry: Entry = {
    format: ENTRY_FORMAT,
    made: currentMoment(),
    package: of,
    header: checksumOf(`${directory}/header.rpm`),
  };
  writeRecord(entryFile(directory), entry);
}

function copyHeader(from: string, to: string, end: number): void {
  using file = closing(openSync(from, 'r'));
  const bytes = readInto(Buffer.alloc(end), file.fd, 0);
  if (bytes.length < end) {
    throw new KilnError('E_STORE', `${from} became shorter while it was copied`, {
      hint: 'is its disk or network share at fault? Try again',
    });
  }
  writeFileSync(to, bytes);
}

/*
 * A package of the store is not there for everybody. To know a digest is not to have the package: a user whose
 * recipe names one that others have brought has to bring it, too. Root has no such bounds.
 * An empty file `open` in the folder says that anybody can fetch it, `reader-UID` that this user has.
 */

export interface PackageUser {
  readonly uid: number;
}

export function reachOf(
  paths: StatePaths,
  user: PackageUser | undefined,
): { readonly paths: StatePaths; readonly reach: Reach } {
  if (user === undefined) return { paths, reach: 'named' };
  return { paths: pathsOfUser(paths, user), reach: 'public' };
}

const OPEN = 'open';

function readerFile({ uid }: PackageUser): string {
  return `reader-${uid}`;
}

export function mayRead(paths: StatePaths, digest: string, user: PackageUser): boolean {
  const directory = packageDirectory(paths, digest);
  return [OPEN, readerFile(user)].some((name) => existsSync(join(directory, name)));
}

export function forgetReader(directory: string, user: PackageUser): void {
  rmSync(join(directory, readerFile(user)), { force: true });
}

/** Whether the package counts as this user’s: the user brought it, and no recipe of root’s made it public. */
export function isOwnedBy(directory: string, user: PackageUser): boolean {
  return existsSync(join(directory, readerFile(user))) && !existsSync(join(directory, OPEN));
}

export function noteReader(
  directory: string,
  user: PackageUser | undefined,
  isPublic: boolean,
): void {
  if (user !== undefined) writeFileSync(join(directory, readerFile(user)), '', { mode: 0o600 });
  else if (isPublic) writeFileSync(join(directory, OPEN), '', { mode: 0o600 });
}
