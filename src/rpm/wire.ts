/**
 * A package on its way from the confined child to its parent, and in the store (unwire.ts is the other
 * end). Files go as columns (all paths, all modes …), and what is the same for all of them, as their owner
 * mostly is, once: less than half of the bytes, and checked ten times faster than one object a file; a
 * thousand packages have half a million files.
 */
import type { RpmFile, RpmPackage } from './package.ts';

/** Columns that are sent as they are. What may be null in RpmFile is an empty string here. */
const TEXT = ['path', 'owner', 'group', 'lang'] as const;
const NULLABLE = ['digest', 'linkTarget', 'caps', 'imaSignature'] as const;
const NUMBER = [
  ...(['mode', 'size', 'mtime', 'verifyFlags', 'device', 'inode', 'nlink', 'rdev'] as const),
];

export type NumberColumn = (typeof NUMBER)[number];

export type Column = (typeof TEXT)[number] | (typeof NULLABLE)[number] | NumberColumn | 'flags';
/** A value for each file, or the one that all of them have. */
export type ColumnValues = readonly unknown[] | string | number;

/** What all files have in common is sent once only up to this length: a short message cannot stand for much. */
export const COMMON_TEXT = 64;
/** Files that a package may have: ten times what the largest have. */
export const MOST_FILES = 2 ** 20;

/** A package as it is sent and kept: plain JSON. */
export function toWire({ files, ...rest }: RpmPackage): object {
  const columns: Partial<Record<Column, ColumnValues>> = {
    flags: values(files, ({ flags }) => flags.join(' ')),
  };
  for (const column of [...TEXT, ...NUMBER]) columns[column] = values(files, (of) => of[column]);
  for (const column of NULLABLE) columns[column] = values(files, (file) => file[column] ?? '');
  // It tells how many there are.
  return { ...rest, files: { ...columns, path: files.map(({ path }) => path) } };
}

function values<Value extends string | number>(
  files: readonly RpmFile[],
  of: (file: RpmFile) => Value,
): ColumnValues {
  const all = files.map(of);
  const first = all[0];
  const short = typeof first === 'number' || (first !== undefined && first.length <= COMMON_TEXT);
  return short && all.every((value) => value === first) ? first : all;
}
