import { join } from 'node:path';
import { readRecordOrSetAside, withFields, writeRecord } from '../../../host/state/checked-file.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import type { Moment } from '../../../image/store/durability.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';

/** Raised when roots of an older kiln cannot be used any more. */
export const ROOT_FORMAT = 1;

/** root.json: what is known of a root without opening it. */
export interface RootRecord {
  readonly format: typeof ROOT_FORMAT;
  /** The id of its image, which is kept as long as the root. */
  readonly image: string;
  /** When it was last changed: changes that a crash may have lost are not trusted. */
  readonly changed: Moment;
  /** A sandbox may use it: set before the sandbox opens, cleared when it is gone. */
  readonly inUse: boolean;
  /** Set while packages change: a root found with it is incomplete. */
  readonly changing: boolean;
  /** True while the root has nothing but its image. */
  readonly pristine: boolean;
}

/** Files of a root's folder. */
export const rootFiles = {
  record: (directory: string) => join(directory, 'root.json'),
  /** The packages that were installed into it, as repositories describe them. */
  packages: (directory: string) => join(directory, 'packages.json'),
  /** The overlay's upper and work directories. */
  scratch: (directory: string) => join(directory, 'scratch'),
};

/** The folder of a root. Its lock lies elsewhere, so that the folder can be removed. */
export function rootDirectory(paths: StatePaths, name: string): string {
  return join(paths.roots, name);
}

const takeRecord = withFields<RootRecord>({ format: 'number', image: 'string', changed: 'object' });

/** Reads root.json; undefined if it is missing, of another format, or damaged (then it is set aside). */
export async function readRootRecord(directory: string): Promise<RootRecord | undefined> {
  const record = readRecordOrSetAside(rootFiles.record(directory), takeRecord);
  return record?.format === ROOT_FORMAT ? record : undefined;
}

/** Replaces root.json as a whole. */
export async function writeRootRecord(directory: string, record: RootRecord): Promise<void> {
  writeRecord(rootFiles.record(directory), record);
}

const hasPackages = withFields<{ packages: LockedPackage[] }>({ packages: 'array' });

/** An older kiln wrote only the list. */
function takePackages(value: object): { readonly packages: LockedPackage[] } {
  return Array.isArray(value) ? { packages: value as LockedPackage[] } : hasPackages(value);
}

/**
 * The packages of a root as repositories describe them, the latest last; undefined if the list is lost, or
 * damaged, which is reported.
 */
export function readRootPackages(directory: string): LockedPackage[] | undefined {
  return readRecordOrSetAside(rootFiles.packages(directory), takePackages)?.packages;
}

export async function writeRootPackages(
  directory: string,
  packages: readonly LockedPackage[],
): Promise<void> {
  writeRecord(rootFiles.packages(directory), { packages });
}
