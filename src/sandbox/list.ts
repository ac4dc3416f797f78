import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { tryLock } from '../kernel/flock.ts';
import type { StatePaths } from '../state/paths.ts';
import { type BoxRecord, boxFiles, isExpired, readBoxRecord } from './box-record.ts';
import type { SandboxOwner } from './open.ts';

/**
 * `running`: its owner lives. `kept`: it waits for somebody to come back. `parked`: it waits for a
 * claim. `abandoned`: its owner died, or it has waited for too long; the next sweep destroys it.
 */
type BoxState = 'running' | 'kept' | 'parked' | 'abandoned';

/** A box, as `kiln ps` shows it. */
export interface ListedBox {
  readonly id: string;
  readonly state: BoxState;
  readonly directory: string;
  readonly record: BoxRecord;
}

/** All boxes of a state directory that are root's or a user's, the oldest first. Reads files only; asks nobody. */
export async function listBoxes(
  paths: StatePaths,
  { owner }: { readonly owner: Pick<SandboxOwner, 'uid'> | undefined },
): Promise<ListedBox[]> {
  const boxes: ListedBox[] = [];
  for (const id of await readdir(paths.boxes).catch(() => [])) {
    const directory = join(paths.boxes, id);
    const record = readBoxRecord(directory);
    if (record === undefined) continue;
    // Root sees them all.
    if (owner !== undefined && record.owner !== owner.uid) continue;
    boxes.push({ id, state: await stateOf(directory, record), directory, record });
  }
  return boxes.sort((a, b) => a.record.created - b.record.created);
}

async function stateOf(directory: string, record: BoxRecord): Promise<BoxState> {
  const lock = await tryLock(boxFiles.lock(directory), { shared: true }).catch(() => undefined);
  if (lock === undefined) {
    if (record.parked === undefined) return 'running';
    return isExpired(record, Date.now()) ? 'abandoned' : 'parked';
  }
  await lock.release();
  return record.keepUntil !== undefined && record.keepUntil > Date.now() ? 'kept' : 'abandoned';
}
