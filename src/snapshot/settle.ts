import { isKilnCode } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { CONFINED_IDS } from '../host/confine/launch.ts';
import { askConfined, FAULTS_OF_A_FILE } from '../host/confine/run.ts';
import { beginStage } from '../host/process/work.ts';
import type { StatePaths } from '../host/state/paths.ts';
import {
  leaseSnapshot,
  type Snapshot,
  snapshotFiles,
  UNSETTLED,
  writeSnapshot,
} from '../image/store/snapshots.ts';
import { MOST_NAMES, outputSchema } from './copy.ts';
import { mappedMount } from './folder.ts';

/**
 * A snapshot with its digest and size. What became a layer without a copy is looked at the first time that somebody asks,
 * and set-id bits and capabilities are dropped then: see settle-task.ts. One that is too much to look at stays as it is:
 * nobody's list is held up by it.
 * @throws KilnError E_NO_SNAPSHOT, the signal's reason
 */
export async function settled(
  paths: StatePaths,
  snapshot: Snapshot,
  signal?: AbortSignal,
): Promise<Snapshot> {
  const { id, folder, record } = snapshot;
  if (record.digest !== UNSETTLED) return snapshot;
  await using _lease = await leaseSnapshot(paths, id);
  const path = snapshotFiles.tree(folder);
  using tree = closing(mappedMount(path, CONFINED_IDS, { isWritten: true }));
  beginStage(`reading files of snapshot ${id}`);
  try {
    const { leftOut: _, ...counted } = await askConfined({
      ...{ task: 'snapshot-settle', input: { maxEntries: MOST_NAMES }, fds: [tree.fd], signal },
      validate: (value) => outputSchema.parse(value),
    });
    const now = { ...record, ...counted };
    writeSnapshot(folder, now);
    return { ...snapshot, record: now };
  } catch (error) {
    if (isKilnCode(error, 'E_ARTIFACT_LIMIT', 'E_PATH', ...FAULTS_OF_A_FILE)) return snapshot;
    throw error;
  }
}

/** One after the other: each reads what was written. */
export async function allSettled(
  paths: StatePaths,
  snapshots: readonly Snapshot[],
  signal?: AbortSignal,
): Promise<Snapshot[]> {
  const all: Snapshot[] = [];
  for (const each of snapshots) all.push(await settled(paths, each, signal));
  return all;
}
