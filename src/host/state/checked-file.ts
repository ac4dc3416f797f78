/**
 * Small files that kiln writes and reads back. Each ends with a checksum, so a file that was cut, emptied or
 * changed is detected. One without a checksum (of an older kiln, or a person) is taken as it is.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { reasonOf } from '../../errors.ts';
import { attempt, hasErrno } from '../calls/libc.ts';
import { removeTree, removeTreeNow } from '../files/remove-tree.ts';
import { shortHash } from '../process/short-hash.ts';
import { asidePath, DamagedFileError, renameOver, setAside, tellDamage } from './damage.ts';

/** The last key of a record; no other key has this name. */
const CHECK = /"check":"([0-9a-f]{8})"\}\s*$/;

export function recordText(value: object): string {
  const head = `${JSON.stringify(value).slice(0, -1)}${Object.keys(value).length === 0 ? '' : ','}`;
  return `${head}"check":"${shortHash(head)}"}`;
}

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
    throw new DamagedFileError(path, 'it is not a JSON object');
  }
  if (check !== undefined) delete (value as { check?: string }).check;
  return value;
}

export interface WriteOptions {
  /** A power cut then leaves the old file or the new one. */
  readonly flush?: boolean;
}

/** A reader never sees half of the file. */
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
    throw new DamagedFileError(path, reasonOf(error));
  }
}

export type FieldKind = 'string' | 'number' | 'boolean' | 'object' | 'array';

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

export type FoundRecord<Value> =
  | { readonly value: Value | undefined; readonly damage?: undefined }
  | { readonly value?: undefined; readonly damage: DamagedFileError };

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

/** A damaged one is deleted, reported, and counts as missing. */
export function findCached<Value>(path: string, take: (value: object) => Value): Value | undefined {
  const { value, damage } = findRecord(path, take);
  if (damage !== undefined) drop(damage);
  return value;
}

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
    tellDamage({ path, why, done: 'it is not used, and cannot be put aside' });
  }
}

/** @param done what becomes of it then */
export function drop({ path, why }: DamagedFileError, done = 'it is made again'): void {
  const isGone = succeedsToRemove(path);
  tellDamage({ path, why, done: isGone ? done : 'it is not used, and cannot be removed' });
}

function succeedsToRemove(path: string): boolean {
  try {
    removeTreeNow(path);
    return true;
  } catch {
    return false;
  }
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
    if (hasErrno(error, 'EISDIR')) throw new DamagedFileError(path, 'it is a folder');
    throw error;
  }
}

const takeText = withFields<{ readonly text: string }>({ text: 'string' });

/**
 * Texts that are quicker to read than to compute, in files of one folder. One that cannot be read is computed
 * again, and one that cannot be written is not kept.
 */
export class SmallCache {
  readonly #directory: string;
  readonly #kept: number;

  constructor(directory: string, kept: number) {
    this.#directory = directory;
    this.#kept = kept;
  }

  async read(name: string): Promise<string | undefined> {
    const path = join(this.#directory, `${name}.json`);
    const now = new Date();
    const found = attempt(() => findCached(path, takeText));
    if (found !== undefined) await utimes(path, now, now).catch(() => undefined);
    return found?.text;
  }

  async write(name: string, text: string): Promise<void> {
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      writeRecord(join(this.#directory, `${name}.json`), { text });
      await this.#prune();
    } catch {
      // The text is computed again.
    }
  }

  async #prune(): Promise<void> {
    const names = await readdir(this.#directory);
    if (names.length <= this.#kept) return;
    const dated = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#directory, name);
        return { path, used: (await stat(path).catch(() => undefined))?.mtimeMs ?? 0 };
      }),
    );
    dated.sort((a, b) => a.used - b.used);
    const gone = dated.slice(0, names.length - Math.floor(this.#kept / 2));
    for (const { path } of gone) await removeTree(path);
  }
}
