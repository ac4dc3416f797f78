/** Snapshots of kept and open sandboxes, for programs: as `kiln snapshot`, `kiln fork` and `kiln rollback`. */
import {
  backTo,
  endingCommands,
  forks,
  requireQuiet,
  snapshotFor,
  snapshotMeant,
} from '../../cli/fork.ts';
import { snapshotOf } from '../../cli/snapshot.ts';
import { defined } from '../../defined.ts';
import {
  findSnapshot,
  listSnapshots,
  removeSnapshot,
  type Snapshot,
  snapshotBytes,
  sweepSnapshots,
} from '../../image/store/snapshots.ts';
import {
  findSandbox,
  type ListedSandbox,
  readSandboxRecord,
} from '../../sandbox/domain/sandbox-record.ts';
import { rollBack } from '../../snapshot/restore.ts';
import { allSettled } from '../../snapshot/settle.ts';
import { takeSnapshot } from '../../snapshot/take.ts';
import { forbiddenError } from '../../users/configuration.ts';
import type { Answer, CallContext } from './context.ts';
import type { OpenSandbox } from './open-sandboxes.ts';

export const answerSnapshot: Answer<'Snapshot'> = async ({ sandbox, name, kill }, context) => {
  const { call, daemon } = context;
  if (daemon?.sandboxes.has(sandbox, uidOf(context)) === false) return await daemon.work(call);
  await using engine = context.openEngine();
  const found = await findSandbox(engine, sandbox);
  const options = { name, kill, signal: call.signal };
  if (daemon === undefined) return { snapshot: (await snapshotOf(engine, found, options)).id };
  await sweepSnapshots(engine.paths, engine.owner);
  const taken = await inOpen(found, kill, context, (opened) =>
    takeSnapshot(engine, { ...opened, kept: opened.plan.command }, options),
  );
  return { snapshot: taken.id };
};

/** How long forks are kept, ms, unless the call says. */
const KEPT_MS = 3_600_000;

export const answerFork: Answer<'Fork'> = async ({ from, number = 1, keep = KEPT_MS }, context) => {
  const { caller, call } = context;
  const most = caller.user?.policy.limits.keep ?? Number.POSITIVE_INFINITY;
  if (keep > most) throw forbiddenError('keep', `users may keep a sandbox for ${most} ms`);
  await using engine = context.openEngine();
  const snapshot = await snapshotMeant(engine, from, call.signal);
  const options = { keep, limits: {}, caller: caller.ids, signal: call.signal };
  const sandboxes = await forks(engine, snapshot, number, options, caller);
  return { snapshot: snapshot.id, sandboxes };
};

export const answerRollback: Answer<'Rollback'> = async (parameters, context) => {
  const { call, daemon } = context;
  const { sandbox: id, snapshot: word, kill = false } = parameters;
  if (daemon?.sandboxes.has(id, uidOf(context)) === false) return await daemon.work(call);
  await using engine = context.openEngine();
  const found = await findSandbox(engine, id);
  if (daemon === undefined) return { snapshot: (await backTo(engine, found, word, kill)).id };
  const snapshot = await snapshotFor(engine, found.id, word);
  await inOpen(found, kill, context, async ({ sandbox }) => {
    if (!kill) requireQuiet(found);
    try {
      await rollBack(engine.paths, sandbox, found.record, snapshot);
    } catch (error) {
      // Files of both states are no use to its caller.
      if (readSandboxRecord(found.folder)?.rollback !== undefined) await sandbox.close();
      throw error;
    }
  });
  return { snapshot: snapshot.id };
};

function uidOf({ call }: CallContext): number {
  return call.head.identity.uid;
}

/** Nothing else is done in the open sandbox meanwhile. @throws KilnError E_SANDBOX_BUSY, E_NO_SANDBOX */
async function inOpen<Result>(
  { id, record }: ListedSandbox,
  kill: boolean | undefined,
  context: CallContext,
  act: (open: OpenSandbox) => Promise<Result>,
): Promise<Result> {
  const enter = async () => {
    if (context.daemon === undefined) throw new TypeError('open sandboxes are in the daemon');
    return await context.daemon.sandboxes.useAlone(id, uidOf(context), act);
  };
  return await (kill === true ? endingCommands(record, enter) : enter());
}

export const answerListSnapshots: Answer<'ListSnapshots'> = async (_, context) => {
  await using engine = context.openEngine();
  const { paths, owner } = engine;
  const all = await allSettled(paths, await listSnapshots(paths, owner));
  return { snapshots: all.map(shown) };
};

export const answerRemoveSnapshot: Answer<'RemoveSnapshot'> = async ({ snapshot }, context) => {
  await using engine = context.openEngine();
  const { id } = await findSnapshot(engine.paths, engine.owner, snapshot);
  // What is over must not hold those that it stands on.
  await sweepSnapshots(engine.paths, engine.owner);
  await removeSnapshot(engine.paths, id);
  return {};
};

function shown({ record }: Snapshot) {
  const { id, name, sandbox, image, layers, digest, created } = record;
  const known = { id, ...defined({ name }), sandbox, image, layers, digest };
  return { ...known, bytes: Math.round(snapshotBytes(record)), created: Math.round(created) };
}
