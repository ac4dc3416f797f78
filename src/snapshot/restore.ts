import { fromText } from '../artifacts/pattern.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { refreshNames } from '../host/files/mount.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { leaseSnapshot, type Snapshot } from '../image/store/snapshots.ts';
import type { SandboxRecord } from '../sandbox/domain/sandbox-record.ts';
import type { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { copyLayer } from './copy.ts';
import { mappedMount } from './take.ts';

/**
 * Makes the root of a sandbox what it was at a snapshot of it. What runs there is ended: the overlay does not look at
 * names anew that a process uses. A rollback that is cut off is known to the sandbox's record, and can be done again.
 * @throws KilnError E_ROLLBACK, E_NO_SNAPSHOT, E_SANDBOX_GONE, the signal's reason
 */
export async function rollBack(
  paths: StatePaths,
  sandbox: PlannedSandbox,
  record: SandboxRecord,
  snapshot: Snapshot,
  signal?: AbortSignal,
): Promise<void> {
  requireSameStack(record, snapshot);
  await using layer = await leaseSnapshot(paths, snapshot.id);
  const range = sandbox.idRange;
  using from = closing(mappedMount(layer.tree, range));
  using home = closing(await sandbox.layers.open('/'));
  await sandbox.killAll();
  sandbox.noteRollback(snapshot.id);
  await copyLayer({
    ...{ from: from.fd, home: home.fd, tree: 'upper', range, signal },
    // What was in the sandbox once has room there.
    maxBytes: Number.MAX_SAFE_INTEGER,
    keep: sandbox.facts.mounts.map(({ path }) => fromText(path.slice(1))).filter(Boolean),
    countedWith: sandbox.initPid,
  });
  await sandbox.tree.withRoot(async (root) => refreshNames(root));
  sandbox.noteRollback(undefined);
}

function requireSameStack({ id, image, layers = [] }: SandboxRecord, snapshot: Snapshot): void {
  const { record } = snapshot;
  const isSame = record.image === image && record.layers.join() === layers.join();
  if (isSame) return;
  throw new KilnError('E_ROLLBACK', `snapshot ${snapshot.id} is not of sandbox ${id}`, {
    hint: `\`kiln fork ${snapshot.id}\` makes a sandbox of it; \`kiln snapshot ls\` shows whose each is`,
  });
}
