/**
 * What lives longer than the call that made it has a folder with a record and a lock, which the process that looks after
 * it holds: so anybody finds it without that process, and sweeps what a killed one left. What ends it is its own affair.
 */
import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { allEnds } from '../../promise.ts';
import { hasErrno } from '../calls/libc.ts';
import { tryLock } from '../files/flock.ts';
import { type FieldKind, findRecord, withFields, writeRecord } from './checked-file.ts';
import { tellDamage } from './damage.ts';

interface Owned {
  /** Milliseconds since 1970. */
  readonly created: number;
  /** The uid of a user who is not root. */
  readonly owner?: number | undefined;
}

interface Kind<Record, State> {
  readonly record: string;
  readonly lock: string;
  readonly fields: Readonly<Partial<{ [Name in keyof Record & string]: FieldKind }>>;
  /** What becomes of one whose record is damaged. */
  readonly damaged: (id: string) => string;
  readonly stateOf: (record: Record, isHeld: boolean) => State;
}

export interface Recorded<Record> {
  readonly id: string;
  readonly folder: string;
  readonly record: Record;
}

export interface Listed<Record, State> extends Recorded<Record> {
  readonly state: State;
}

type Viewer = { readonly uid: number } | undefined;

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

export function longLived<Record extends Owned, State>(kind: Kind<Record, State>) {
  const { record, lock, fields, damaged, stateOf } = kind;
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
  /** Undefined for what is not there, or another's; root sees all. */
  const seen = (folder: string, owner: Viewer): Recorded<Record> | undefined => {
    const found = read(folder);
    if (found === undefined || (owner !== undefined && found.owner !== owner.uid)) return undefined;
    return { id: basename(folder), folder, record: found };
  };
  /** As {@link seen}, with its state. */
  const look = async (
    folder: string,
    owner: Viewer,
  ): Promise<Listed<Record, State> | undefined> => {
    const before = seen(folder, owner);
    if (before === undefined) return undefined;
    const held = await isHeld(join(folder, lock)).catch(() => true);
    // Whoever let go of it may have written the record since it was read, or removed all.
    const now = held ? before : seen(folder, owner);
    return now && { ...now, state: stateOf(now.record, held) };
  };
  const foldersIn = async (all: string) =>
    (await readdir(all).catch(() => [])).map((id) => join(all, id));
  /** Those of the owner, oldest first, whatever their state. Reads files only. */
  const records = async (all: string, owner: Viewer) =>
    oldestFirst((await foldersIn(all)).map((folder) => seen(folder, owner)));
  /** Those of the owner, oldest first. Reads files only. */
  const list = async (all: string, owner: Viewer) => {
    const found: (Listed<Record, State> | undefined)[] = [];
    for (const folder of await foldersIn(all)) found.push(await look(folder, owner));
    return oldestFirst(found);
  };
  /** Removes those that nobody holds, unless they stay. Returns their ids. */
  const sweep = async (
    all: string,
    stays: (record: Record | undefined) => boolean,
    remove: (folder: string, record: Record | undefined) => Promise<void>,
  ): Promise<string[]> => {
    const sweepOne = async (id: string) => {
      const folder = join(all, id);
      // Not looked at under the lock: whoever lists would take it for one that is held.
      if (stays(find(folder).value)) return [];
      await using held = await tryLock(join(folder, lock)).catch(() => undefined);
      if (held === undefined) return [];
      const found = read(folder);
      if (stays(found)) return [];
      await remove(folder, found);
      return [id];
    };
    const ids = await readdir(all).catch(() => []);
    return (await allEnds(ids.map(sweepOne))).flat();
  };
  return { find, read, write, look, records, list, sweep };
}

function oldestFirst<One extends Recorded<Owned>>(found: readonly (One | undefined)[]): One[] {
  const there = found.filter((one) => one !== undefined);
  return there.sort((a, b) => a.record.created - b.record.created);
}

/** The one whose id begins with a word. @throws KilnError E_NO_SANDBOX, E_NO_JOB */
export function onlyOne<One extends { readonly id: string }>(
  kind: 'sandbox' | 'job',
  word: string,
  all: readonly One[],
): One {
  // An empty beginning would match any.
  const found = word === '' ? [] : all.filter(({ id }) => id.startsWith(word));
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const [message, hint] =
    found.length > 1
      ? [`${kind} ${word}: ${found.length} ids begin so`, 'give more of the id: `kiln ps` shows it']
      : [`there is no ${kind} ${word || '""'}`, 'it may have ended: `kiln ps` lists what is there'];
  if (kind === 'job') throw new KilnError('E_NO_JOB', message, { hint });
  throw new KilnError('E_NO_SANDBOX', message, { hint });
}
