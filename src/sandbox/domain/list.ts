import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { tryLock } from '../../host/files/flock.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { SandboxOwner } from '../open.ts';
import {
  isExpired,
  readSandboxRecord,
  type SandboxRecord,
  sandboxFiles,
} from './sandbox-record.ts';

/**
 * `running`: its owner lives. `kept`: it can be entered again. `parked`: it waits for a claim. `abandoned`: its
 * owner died or its time is over; the next sweep destroys it.
 */
type SandboxState = 'running' | 'kept' | 'parked' | 'abandoned';

/** A sandbox, as `kiln ps` shows it. */
export interface ListedSandbox {
  readonly id: string;
  readonly state: SandboxState;
  readonly directory: string;
  readonly record: SandboxRecord;
}

/**
 * The sandboxes of a state directory that belong to the owner, oldest first; root sees all. Reads files only.
 */
export async function listSandboxes(
  paths: StatePaths,
  { owner }: { readonly owner: Pick<SandboxOwner, 'uid'> | undefined },
): Promise<ListedSandbox[]> {
  const sandboxes: ListedSandbox[] = [];
  for (const id of await readdir(paths.sandboxes).catch(() => [])) {
    const directory = join(paths.sandboxes, id);
    const record = readSandboxRecord(directory);
    if (record === undefined) continue;
    // Root sees all sandboxes.
    if (owner !== undefined && record.owner !== owner.uid) continue;
    sandboxes.push({ id, state: await stateOf(directory, record), directory, record });
  }
  return sandboxes.sort((a, b) => a.record.created - b.record.created);
}

async function stateOf(directory: string, record: SandboxRecord): Promise<SandboxState> {
  const lock = await tryLock(sandboxFiles.lock(directory), { shared: true }).catch(() => undefined);
  if (lock === undefined) {
    if (record.parked === undefined) return 'running';
    return isExpired(record, Date.now()) ? 'abandoned' : 'parked';
  }
  await lock.release();
  return record.keepUntil !== undefined && record.keepUntil > Date.now() ? 'kept' : 'abandoned';
}
