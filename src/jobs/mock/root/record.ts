import { join } from 'node:path';
import { readRecordOrSetAside, withFields, writeRecord } from '../../../host/state/checked-file.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import type { Moment } from '../../../image/store/durability.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';

/** Raised when a root of an older kiln cannot be used any more. */
export const ROOT_FORMAT = 1;

/** root.json: what is known of a root without looking into it. */
export interface RootRecord {
  readonly format: typeof ROOT_FORMAT;
  /** Id of the image it is made on; nobody may delete that image while the root is there. */
  readonly image: string;
  /** When it was last changed: what the disk may not have after a crash is not trusted. */
  readonly changed: Moment;
  /** A sandbox may be using it: set before one is opened, cleared when it is gone. */
  readonly inUse: boolean;
  /** Packages are being changed: one that is found like this is not whole. */
  readonly changing: boolean;
  /** Nothing but its image is in it. */
  readonly pristine: boolean;
}

/** Files of a root's folder. */
export const rootFiles = {
  record: (directory: string) => join(directory, 'root.json'),
  /** Which packages were put into it, as repositories know them. */
  packages: (directory: string) => join(directory, 'packages.json'),
  /** The overlay's upper and work directories. */
  scratch: (directory: string) => join(directory, 'scratch'),
};

/** The folder of a root. Its lock lies elsewhere, so that the folder can be thrown away. */
export function rootDirectory(paths: StatePaths, name: string): string {
  return join(paths.roots, name);
}

const takeRecord = withFields<RootRecord>({ format: 'number', image: 'string', changed: 'object' });

/** Reads root.json; undefined when there is none, or none of this format, or a damaged one, which is put aside. */
export async function readRootRecord(directory: string): Promise<RootRecord | undefined> {
  const record = readRecordOrSetAside(rootFiles.record(directory), takeRecord);
  return record?.format === ROOT_FORMAT ? record : undefined;
}

/** Replaces root.json as a whole. */
export async function writeRootRecord(directory: string, record: RootRecord): Promise<void> {
  writeRecord(rootFiles.record(directory), record);
}

const hasPackages = withFields<{ packages: LockedPackage[] }>({ packages: 'array' });

/** An older kiln wrote the bare list. */
function takePackages(value: object): { readonly packages: LockedPackage[] } {
  return Array.isArray(value) ? { packages: value as LockedPackage[] } : hasPackages(value);
}

/**
 * The packages of a root as repositories know them, what was put in last at the end; undefined where that
 * is lost, or damaged, which is told.
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
