/**
 * Small files that kiln writes and reads back. Each ends with a checksum of its content, so a file that was
 * cut, emptied or changed is detected when it is read. A file without a checksum (from an older kiln, or a
 * person) is taken as it is.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hasErrno } from '../calls/libc.ts';
import { removeTreeNow } from '../files/remove-tree.ts';
import { shortHash, shortHashOf } from '../process/short-hash.ts';
import { asidePath, DamagedFileError, renameOver, setAside, tellDamage } from './damage.ts';

/** What is wrong with a file that is a directory. */
const IS_DIRECTORY = 'it is a directory';

/** The last key of a record; no other key has this name. */
const CHECK = /"check":"([0-9a-f]{8})"\}\s*$/;

/** A record's text: the object as JSON, with the checksum of all before it as the last key. */
export function recordText(value: object): string {
  const head = `${JSON.stringify(value).slice(0, -1)}${Object.keys(value).length === 0 ? '' : ','}`;
  return `${head}"check":"${shortHash(head)}"}`;
}

/**
 * What a record's text says, without its checksum.
 * @param path for the message
 * @throws DamagedFileError
 */
function parseRecord(path: string, text: string): object {
  const [, check] = CHECK.exec(text.slice(-100)) ?? [];
  if (check !== undefined) {
    const head = text.slice(0, text.lastIndexOf('"check":'));
    if (shortHash(head) !== check) throw new DamagedFileError(path, 'its checksum is another one');
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new DamagedFileError(path, text.trim() === '' ? 'it is empty' : 'it is cut or garbled');
  }
  if (typeof value !== 'object' || value === null) {
    throw new DamagedFileError(path, 'it is not what belongs there');
  }
  if (check !== undefined) delete (value as { check?: string }).check;
  return value;
}

export interface WriteOptions {
  /** Waits until the disk has the content, so that a power cut leaves the old file or the new one. */
  readonly flush?: boolean;
}

/** Replaces a file as a whole: a reader never sees half of it. */
export function writeWholeSync(
  path: string,
  content: string | Uint8Array,
  { flush = false }: WriteOptions = {},
): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, content, { mode: 0o600, flush });
    renameOver(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

export function writeRecord(path: string, value: object, options?: WriteOptions): void {
  writeWholeSync(path, recordText(value), options);
}

/**
 * Reads a record; undefined if there is none.
 * @param take checks what is in it, and throws whatever it likes for what does not belong there
 * @throws DamagedFileError
 */
export function readRecord<Value>(
  path: string,
  take: (value: object) => Value = (value) => value as Value,
): Value | undefined {
  const text = readIfThere(path)?.toString('utf8');
  if (text === undefined) return undefined;
  const value = parseRecord(path, text);
  try {
    return take(value);
  } catch (error) {
    throw new DamagedFileError(path, error instanceof Error ? error.message : String(error));
  }
}

/** What a field of a record must be: `typeof`, or an array. */
type FieldKind = 'string' | 'number' | 'boolean' | 'object' | 'array';

/** Checks that a record has these fields, and ignores others. For {@link readRecord}. */
export function withFields<Value>(
  fields: Readonly<Partial<Record<keyof Value & string, FieldKind>>>,
): (value: object) => Value {
  return (value) => {
    for (const [name, kind] of Object.entries(fields)) {
      const field: unknown = (value as Record<string, unknown>)[name];
      const found = Array.isArray(field) ? 'array' : field === null ? 'null' : typeof field;
      if (found !== kind) throw new TypeError(`its ${name} is not what it should be`);
    }
    return value as Value;
  };
}

/** An undamaged record, or what is wrong with it. The file stays in its place. */
export type FoundRecord<Value> =
  | { readonly value: Value | undefined; readonly damage?: undefined }
  | { readonly value?: undefined; readonly damage: DamagedFileError };

/** Like {@link readRecord}, for a caller that decides itself what to do with a damaged record. */
export function findRecord<Value>(
  path: string,
  take?: (value: object) => Value,
): FoundRecord<Value> {
  try {
    return { value: readRecord(path, take) };
  } catch (error) {
    if (error instanceof DamagedFileError) return { damage: error };
    throw error;
  }
}

/** Reads a record that kiln can do without. A damaged one is set aside, reported, and counts as missing. */
export function readRecordOrSetAside<Value>(
  path: string,
  take?: (value: object) => Value,
): Value | undefined {
  const { value, damage } = findRecord(path, take);
  if (damage === undefined) return value;
  putAside(damage);
  return undefined;
}

function putAside({ path, why }: DamagedFileError): void {
  try {
    if (setAside(path)) tellDamage({ path, why, done: `it lies in ${asidePath(path)} now` });
  } catch {
    // The disk may be read-only: the file stays and is found again.
    tellDamage({ path, why, done: 'it is not used, and cannot be put aside' });
  }
}

/** The marker before the checksum (eight hexadecimal digits) at the end of a cache file. */
const SEAL = '\nkiln-check ';

/**
 * Writes a cache file as a whole or not at all. It is not flushed: if the disk loses it, reading detects that.
 */
export function writeSealed(path: string, content: string | Buffer): void {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  writeWholeSync(path, Buffer.concat([bytes, Buffer.from(`${SEAL}${shortHashOf(bytes)}`)]));
}

/** What {@link writeSealed} wrote. @throws DamagedFileError; undefined if there is no such file. */
export function readSealed(path: string): Buffer | undefined {
  const bytes = readIfThere(path);
  if (bytes === undefined) return undefined;
  if (bytes.length === 0) throw new DamagedFileError(path, 'it is empty');
  const end = bytes.length - SEAL.length - 8;
  if (end < 0 || bytes.toString('latin1', end, end + SEAL.length) !== SEAL) {
    throw new DamagedFileError(path, 'its end is missing');
  }
  const content = bytes.subarray(0, end);
  if (bytes.toString('latin1', end + SEAL.length) === shortHashOf(content)) return content;
  throw new DamagedFileError(path, 'its checksum is another one');
}

/** A cache file. A damaged one is deleted, reported, and counts as missing. */
export function readCached(path: string): Buffer | undefined {
  try {
    return readSealed(path);
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    dropCached(error);
    return undefined;
  }
}

/** Deletes and reports a damaged cache file. It is made again when it is needed. */
export function dropCached({ path, why }: DamagedFileError): void {
  let done = 'it is made anew';
  try {
    removeTreeNow(path);
  } catch {
    // The disk may be read-only: the file stays and is found again.
    done = 'it is not used, and cannot be removed';
  }
  tellDamage({ path, why, done });
}

/** @throws DamagedFileError for a directory. */
function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
    if (hasErrno(error, 'EISDIR')) throw new DamagedFileError(path, IS_DIRECTORY);
    throw error;
  }
}
