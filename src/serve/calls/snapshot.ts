/** Snapshots of kept sandboxes, for programs: as `kiln snapshot`, `kiln fork` and `kiln rollback`. */
import { backTo, forks, snapshotMeant } from '../../cli/fork.ts';
import { snapshotOf } from '../../cli/snapshot.ts';
import { defined } from '../../defined.ts';
import {
  findSnapshot,
  listSnapshots,
  removeSnapshot,
  type Snapshot,
  snapshotBytes,
} from '../../image/store/snapshots.ts';
import { findSandbox } from '../../sandbox/domain/sandbox-record.ts';
import { forbiddenError } from '../../users/configuration.ts';
import type { Answer } from './context.ts';

export const answerSnapshot: Answer<'Snapshot'> = async ({ sandbox, name, kill }, context) => {
  await using engine = context.openEngine();
  const { signal } = context.call;
  const found = await findSandbox(engine, sandbox);
  return { snapshot: (await snapshotOf(engine, found, { name, kill, signal })).id };
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
  return { snapshot: snapshot.id, sandboxes: await forks(engine, snapshot, number, options) };
};

export const answerRollback: Answer<'Rollback'> = async (parameters, context) => {
  const { sandbox, snapshot, kill = false } = parameters;
  await using engine = context.openEngine();
  const found = await findSandbox(engine, sandbox);
  const how = { kill, signal: context.call.signal };
  return { snapshot: (await backTo(engine, found, snapshot, how)).id };
};

export const answerListSnapshots: Answer<'ListSnapshots'> = async (_, context) => {
  await using engine = context.openEngine();
  return { snapshots: (await listSnapshots(engine.paths, engine.owner)).map(shown) };
};

export const answerRemoveSnapshot: Answer<'RemoveSnapshot'> = async ({ snapshot }, context) => {
  await using engine = context.openEngine();
  const { id } = await findSnapshot(engine.paths, engine.owner, snapshot);
  await removeSnapshot(engine.paths, id);
  return {};
};

function shown({ record }: Snapshot) {
  const { id, name, sandbox, image, layers, digest, created } = record;
  const known = { id, ...defined({ name }), sandbox, image, layers, digest };
  return { ...known, bytes: Math.round(snapshotBytes(record)), created: Math.round(created) };
}
