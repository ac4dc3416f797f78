/**
 * Takes a package from a confined child, which has read hostile bytes, or from the store: everything is
 * checked.
 */
import { takeAllButFiles, takeColumns } from './check.ts';
import { fileTypeOf, isFileFlag } from './files.ts';
import type { RpmFile, RpmFileFlag, RpmPackage } from './package.ts';
import {
  COMMON_TEXT,
  type Column,
  type ColumnValues,
  MOST_FILES,
  type NumberColumn,
} from './wire.ts';

type Columns = Partial<Readonly<Record<Column, ColumnValues>>>;

/** Checks and rebuilds what `toWire` made. @throws TypeError for anything else, or KilnError E_RPM_FORMAT */
export function fromWire(value: unknown): RpmPackage {
  const rest = takeAllButFiles(value);
  const columns = takeColumns((value as { readonly files?: unknown }).files);
  return { ...rest, files: rebuildFiles(columns) };
}

function rebuildFiles(columns: Columns): RpmFile[] {
  const { path: paths } = columns;
  if (!Array.isArray(paths) || paths.length > MOST_FILES) {
    throw new TypeError('the paths of the files are not what they should be');
  }
  const count = paths.length;
  const numbers = (column: NumberColumn) =>
    checked<number>(columns, column, count, (v) => Number.isSafeInteger(v) && (v as number) >= 0);
  const texts = (column: Column) =>
    checked<string>(columns, column, count, (v) => typeof v === 'string');

  const path = texts('path');
  const owner = texts('owner');
  const group = texts('group');
  const lang = texts('lang');
  const digest = texts('digest');
  const linkTarget = texts('linkTarget');
  const caps = texts('caps');
  const imaSignature = texts('imaSignature');
  const flags = texts('flags');
  const mode = numbers('mode');
  const size = numbers('size');
  const mtime = numbers('mtime');
  const verifyFlags = numbers('verifyFlags');
  const device = numbers('device');
  const inode = numbers('inode');
  const nlink = numbers('nlink');
  const rdev = numbers('rdev');
  return paths.map((_, i) => {
    const type = fileTypeOf(mode(i));
    return {
      path: path(i),
      type,
      mode: mode(i),
      owner: owner(i),
      group: group(i),
      size: size(i),
      mtime: mtime(i),
      digest: digest(i) || null,
      linkTarget: type === 'symlink' ? linkTarget(i) : null,
      flags: flagList(flags(i)),
      verifyFlags: verifyFlags(i),
      caps: caps(i) || null,
      device: device(i),
      inode: inode(i),
      nlink: nlink(i),
      rdev: rdev(i),
      lang: lang(i),
      imaSignature: imaSignature(i) || null,
    };
  });
}

/** The value of a column for each file. */
function checked<Value>(
  columns: Columns,
  name: Column,
  count: number,
  isRight: (value: unknown) => boolean,
): (index: number) => Value {
  const column = columns[name];
  if (Array.isArray(column)) {
    if (column.length === count && column.every(isRight)) return (index) => column[index] as Value;
  } else if (isRight(column) && (typeof column !== 'string' || column.length <= COMMON_TEXT)) {
    return () => column as Value;
  }
  throw new TypeError(`the column '${name}' of the files is not what it should be`);
}

/** Every list that occurs is checked once. */
const flagLists = new Map<string, readonly RpmFileFlag[]>([['', []]]);

function flagList(text: string): readonly RpmFileFlag[] {
  let list = flagLists.get(text);
  if (list === undefined) {
    const names = text.split(' ');
    if (!names.every(isFileFlag)) throw new TypeError('a file has an unknown flag');
    list = names;
    // There are 2^11 lists at most; a child that sends others has been stopped above.
    flagLists.set(text, list);
  }
  return list;
}
