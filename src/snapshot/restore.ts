import { KilnError } from '../errors.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { Snapshot } from '../image/store/snapshots.ts';
import type { SandboxRecord } from '../sandbox/domain/sandbox-record.ts';
import type { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { leaseStack } from './stack.ts';

/**
 * Gives a sandbox a new root on a snapshot of the same image, and ends what runs there. A rollback that was cut off is
 * known to the sandbox's record, and can be done again.
 * @throws KilnError E_ROLLBACK, E_NO_SNAPSHOT, E_SANDBOX_GONE, E_SETUP
 */
export async function rollBack(
  paths: StatePaths,
  sandbox: PlannedSandbox,
  { id, image }: SandboxRecord,
  snapshot: Snapshot,
): Promise<void> {
  const { record } = snapshot;
  if (record.image !== image) {
    throw new KilnError('E_ROLLBACK', `snapshot ${snapshot.id} is of another image than ${id}`, {
      hint: `\`kiln fork ${snapshot.id}\` makes a sandbox of it; \`kiln snapshot ls\` shows whose each is`,
    });
  }
  await using stack = await leaseStack(paths, record.image, [...record.layers, snapshot.id]);
  await sandbox.root.change(snapshot.id, stack);
}
