import type { Owner } from '../artifacts/destination.ts';
import { some } from '../defined.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import type { Snapshot } from '../image/store/snapshots.ts';
import { planSandbox, type SandboxJob } from '../sandbox/door/plan.ts';
import { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import type { OptionalLayer } from '../sandbox/policy/layers.ts';
import type { SandboxLimits } from '../sandbox/policy/limits.ts';
import { profileFor } from '../sandbox/seccomp/profile.ts';
import { leaseFrom } from './stack.ts';

export interface ForkOptions {
  /** How long it is kept, ms. */
  readonly keep: number;
  readonly limits: SandboxLimits;
  /** What it writes to its root lies on the disk. */
  readonly upperOnDisk?: boolean | undefined;
  readonly caller: Owner;
  readonly isolation: SandboxJob['isolation'];
  readonly allowMissing: readonly OptionalLayer[];
  readonly signal?: AbortSignal | undefined;
}

/**
 * A new sandbox on the snapshot's stack, kept for commands as those of the sandbox that the snapshot is of: their
 * user, environment, folder, profile. Nothing else of that comes along: no binds, no network.
 * @returns its id
 * @throws what opening a sandbox throws, KilnError E_NO_SNAPSHOT
 */
export async function forkSnapshot(
  engine: Engine,
  { id, record }: Snapshot,
  { keep, limits, upperOnDisk, caller, isolation, allowMissing, signal }: ForkOptions,
): Promise<string> {
  refuseWeaker(id, record, isolation);
  await using stack = await leaseFrom(engine, id);
  const { user, capabilities, env, workdir } = record.command;
  const seccomp = profileFor(record.command.seccomp.replace(/-on-disk$/, ''), { upperOnDisk });
  const { id: image, arch, environment } = stack.manifest;
  const [uid = 0, gid = 0] = user.split(':').map(Number);
  const plan = planSandbox(
    {
      ...{ isolation, network: 'private', egress: undefined, binds: [], volumes: [] },
      ...{ allowHostWrite: false, protectedPaths: [], privateTmp: true, namespaces: 0 },
      ...{ nested: false, boot: false, label: { kind: 'auto' }, limits, caller, upperOnDisk },
      ...{
        allowMissing: some(allowMissing) ?? engine.allowMissing(),
        owner: { uid, gid },
        shownAs: ['fork', id],
      },
    },
    { ...stack, id: image, arch, environment },
  );
  const sandbox = await PlannedSandbox.open(engine, plan, { signal });
  try {
    await sandbox.keep(keep, { env, workdir, policy: { user, capabilities, seccomp } });
  } catch (error) {
    await sandbox.close();
    throw error;
  }
  return sandbox.id;
}

/** Whoever chose a machine has a reason. @throws KilnError E_MACHINE */
function refuseWeaker(
  id: string,
  { isolation }: Snapshot['record'],
  wanted: SandboxJob['isolation'],
): void {
  if (isolation !== 'vm' || wanted === 'vm') return;
  throw new KilnError('E_MACHINE', `snapshot ${id} is of a machine`, {
    hint: 'give --isolation vm; `kiln run --from` gives a command a container with these files',
  });
}
