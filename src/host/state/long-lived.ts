/**
 * What lives longer than the call that made it has a folder with a record and a lock, which the process that looks after
 * it holds: so anybody finds it without that process, and sweeps what a killed one left. What ends it is its own affair.
 */
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { hasErrno } from '../calls/libc.ts';
import { tryLock } from '../files/flock.ts';
import { type FieldKind, findRecord, withFields, writeRecord } from './checked-file.ts';
import { tellDamage } from './damage.ts';

interface Owned {
  /** Milliseconds since 1970. */
  readonly created: number;
  /** The uid of a user who is not root. */
  readonly owner?: number;
}

interface Names<Record> {
  readonly record: string;
  readonly lock: string;
  readonly fields: Readonly<Partial<{ [Name in keyof Record & string]: FieldKind }>>;
  /** What becomes of one whose record is damaged. */
  readonly damaged: (id: string) => string;
}

export interface Found<Record> {
  readonly id: string;
  readonly folder: string;
  readonly record: Record;
  readonly isHeld: boolean;
}

/** Whether somebody holds the lock, not only to look as this does. One that was never made is held by nobody. */
export async function isHeld(lock: string): Promise<boolean> {
  try {
    // Shared: two who look at once must not take each other for the holder.
    const held = await tryLock(lock, { shared: true, existing: true });
    await held?.release();
    return held === undefined;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

export function longLived<Record extends Owned>({ record, lock, fields, damaged }: Names<Record>) {
  const take = withFields<Record>(fields);
  const find = (folder: string) => findRecord(join(folder, record), take);
  const read = (folder: string): Record | undefined => {
    const { value, damage } = find(folder);
    if (damage === undefined) return value;
    tellDamage({ path: damage.path, why: damage.why, done: damaged(basename(folder)) });
    return undefined;
  };
  /** Only root can read it: it contains arguments and variables of commands. */
  const write = (folder: string, value: Record) => writeRecord(join(folder, record), value);
  /** Those of the owner, oldest first; root sees all. Reads files only. */
  const list = async (all: string, owner: { readonly uid: number } | undefined) => {
    const found: Found<Record>[] = [];
    for (const id of await readdir(all).catch(() => [])) {
      const folder = join(all, id);
      const before = read(folder);
      if (before === undefined || (owner !== undefined && before.owner !== owner.uid)) continue;
      const held = await isHeld(join(folder, lock)).catch(() => true);
      // Whoever let go of it may have written the record since it was read, or removed all.
      const now = held ? before : read(folder);
      if (now !== undefined) found.push({ id, folder, record: now, isHeld: held });
    }
    return found.sort((a, b) => a.record.created - b.record.created);
  };
  /** Removes one that nobody holds, unless it stays. True if it did. */
  const sweep = async (
    folder: string,
    stays: (record: Record | undefined) => boolean,
    remove: (record: Record | undefined) => Promise<void>,
  ): Promise<boolean> => {
    // Not looked at under the lock: whoever lists would take it for one that is held.
    if (stays(find(folder).value)) return false;
    await using held = await tryLock(join(folder, lock)).catch(() => undefined);
    if (held === undefined) return false;
    const found = read(folder);
    if (stays(found)) return false;
    await remove(found);
    return true;
  };
  return { find, read, write, list, sweep };
}
