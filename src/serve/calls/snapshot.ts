/** Snapshots of kept and open sandboxes, for programs: as `kiln snapshot`, `fork`, `rollback` and `image commit`. */
import type { Methods } from '../../api/io-kiln.ts';
import {
  backTo,
  endingCommands,
  FORK,
  forksAsked,
  onMade,
  requireForks,
  requireQuiet,
  snapshotFor,
  withSnapshot,
} from '../../cli/fork.ts';
import { COMMIT } from '../../cli/images/image-transfer.ts';
import { snapshotOf } from '../../cli/snapshot.ts';
import { admit } from '../../cli/users/user-guard.ts';
import { defined } from '../../defined.ts';
import { currentAction } from '../../events/action.ts';
import {
  findSnapshot,
  listSnapshots,
  removeSnapshot,
  type Snapshot,
  snapshotBytes,
  sweepSnapshots,
} from '../../image/store/snapshots.ts';
import type { ValuesOf } from '../../options/row.ts';
import {
  findSandbox,
  type ListedSandbox,
  readSandboxRecord,
} from '../../sandbox/domain/sandbox-record.ts';
import { commitSnapshot, requireCommit } from '../../snapshot/commit.ts';
import { rollBack } from '../../snapshot/restore.ts';
import { allSettled } from '../../snapshot/settle.ts';
import { type TakeOptions, takeSnapshot } from '../../snapshot/take.ts';
import type { Answer, CallContext, DaemonState } from './context.ts';
import { imageOf } from './image.ts';
import type { OpenSandbox } from './open-sandboxes.ts';
import { calledCommand, setOptions } from './options.ts';

export const answerSnapshot: Answer<'Snapshot'> = async ({ sandbox, name, kill }, context) => {
  const { call, daemon } = context;
  const options = { name, kill, signal: call.signal };
  if (daemon !== undefined) {
    if (!daemon.sandboxes.has(sandbox, uidOf(context))) return await daemon.work(call);
    return { snapshot: await takeOfOpen(sandbox, options, context) };
  }
  await using engine = context.openEngine();
  const found = await findSandbox(engine, sandbox);
  return { snapshot: (await snapshotOf(engine, found, options)).id };
};

async function takeOfOpen(id: string, options: TakeOptions, context: CallContext): Promise<string> {
  await using engine = context.openEngine();
  const found = await findSandbox(engine, id);
  currentAction()?.found({ sandbox: id });
  await sweepSnapshots(engine.paths, engine.owner);
  const taken = await inOpen(found, options.kill, context, (opened) =>
    takeSnapshot(engine, { ...opened, kept: opened.plan.command }, options),
  );
  currentAction()?.found({ snapshot: taken.id });
  return taken.id;
}

/**
 * In the daemon: of an open sandbox it makes a snapshot, and a worker does the rest.
 * @param check refuses what would fail with any snapshot. Given the image that the sandbox stands on
 */
async function ofOpen<Method extends 'Fork' | 'CommitImage'>(
  method: Method,
  parameters: Methods[Method]['parameters'],
  check: (image: string | undefined) => void,
  context: CallContext,
  daemon: DaemonState,
): Promise<Methods[Method]['reply']> {
  const { call } = context;
  const { from } = parameters;
  await using engine = context.openEngine();
  const { record } = await findSandbox(engine, from);
  check(record.image);
  // The worker tells of what it does.
  currentAction()?.named('snapshot', [from]);
  const snapshot = await takeOfOpen(from, { signal: call.signal }, context);
  return await onMade(engine.paths, snapshot, () =>
    daemon.part(call, method, { ...parameters, from: snapshot }),
  );
}

export const answerFork: Answer<'Fork'> = async (parameters, context) => {
  const { caller, call, daemon } = context;
  const { from, ...given } = parameters;
  if (daemon?.sandboxes.has(from, uidOf(context)) === false) return await daemon.work(call);
  const command = calledCommand('fork', FORK, caller);
  setOptions(command, FORK, given);
  await admit(command, caller, { words: 'fork', args: [from] }, []);
  const options = command.opts<ValuesOf<typeof FORK>>();
  const check = () => requireForks(options.number ?? 1, caller);
  if (daemon !== undefined) return await ofOpen('Fork', parameters, check, context, daemon);
  await using engine = context.openEngine();
  const { snapshot, sandboxes } = await forksAsked(engine, from, options, caller, {
    signal: call.signal,
  });
  return { snapshot, sandboxes: [...sandboxes] };
};

export const answerCommitImage: Answer<'CommitImage'> = async (parameters, context) => {
  const { call, daemon, storeChanged } = context;
  const { from } = parameters;
  if (daemon?.sandboxes.has(from, uidOf(context)) === false) return await daemon.work(call);
  const command = calledCommand('commit', COMMIT, context.caller);
  setOptions(command, COMMIT, { name: parameters.name });
  const { name } = command.opts<ValuesOf<typeof COMMIT>>();
  await using engine = context.openEngine();
  const check = (below: string | undefined) => requireCommit(engine.paths, below, name);
  if (daemon !== undefined) return await ofOpen('CommitImage', parameters, check, context, daemon);
  const { signal } = call;
  await using image = await withSnapshot(engine, from, { signal, check }, (snapshot) =>
    commitSnapshot(engine, snapshot, name, signal),
  );
  storeChanged();
  return { image: imageOf(image.manifest, Date.now(), true), skipped: [...image.skipped] };
};

export const answerRollback: Answer<'Rollback'> = async (parameters, context) => {
  const { call, daemon } = context;
  const { sandbox: id, snapshot: word, kill = false } = parameters;
  if (daemon?.sandboxes.has(id, uidOf(context)) === false) return await daemon.work(call);
  await using engine = context.openEngine();
  const found = await findSandbox(engine, id);
  const { signal } = call;
  if (daemon === undefined)
    return { snapshot: (await backTo(engine, found, word, kill, signal)).id };
  currentAction()?.found({ sandbox: id });
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
  return await (kill === true ? endingCommands(record, context.call.signal, enter) : enter());
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
  const { id, name, owner, sandbox, image, layers, digest, created, command } = record;
  const { user, workdir } = command;
  const known = { id, ...defined({ name, owner }), sandbox, image, layers, digest, user, workdir };
  return { ...known, bytes: Math.round(snapshotBytes(record)), created: Math.round(created) };
}
