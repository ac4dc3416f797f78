import { randomBytes } from 'node:crypto';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../defined.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { openDirectory } from '../host/files/at.ts';
import { withLock } from '../host/files/flock.ts';
import { DEFAULT_DISK, DiskWatch } from '../host/state/disk-watch.ts';
import { currentMoment } from '../image/store/durability.ts';
import {
  holdSnapshot,
  listSnapshots,
  type Snapshot,
  type SnapshotRecord,
  snapshotFiles,
  UNSETTLED,
  writeSnapshot,
} from '../image/store/snapshots.ts';
import { storageLeft } from '../image/store/user-storage.ts';
import { openWorkDirectory, publishLock } from '../image/store/work-directory.ts';
import { commandsOf } from '../sandbox/domain/ending.ts';
import type { SandboxRecord } from '../sandbox/domain/sandbox-record.ts';
import type { KeptCommand } from '../sandbox/door/plan.ts';
import type { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { WIRE } from '../sandbox/wire/table.ts';
import { copyLayer } from './copy.ts';
import { layerFolder, mappedMount } from './folder.ts';
import { type LeasedStack, leaseStack, requireRoomAbove } from './stack.ts';

export interface TakeOptions {
  readonly name?: string | undefined;
  /** Ends what still runs in the sandbox. */
  readonly kill?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface TakenSnapshot extends Snapshot {
  /** Fifos, sockets and devices are not part of a snapshot. */
  readonly leftOut: number;
}

/** Begins with a letter, so it is no id. */
const NAME = /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/;

/**
 * Keeps what a sandbox has written to its root in the store: there whole, or not at all. What lies on the disk becomes the
 * layer itself, and the sandbox goes on above it; what lies in memory is copied.
 * @throws KilnError E_SNAPSHOT, E_SANDBOX_GONE, E_DISK, E_DISK_LOW, E_DISK_FULL, the signal's reason
 */
export async function takeSnapshot(
  engine: Engine,
  entered: EnteredSandbox,
  options: TakeOptions = {},
): Promise<TakenSnapshot> {
  const { paths, owner } = engine;
  const { name, kill = false } = options;
  const { record } = entered.sandbox;
  const { image = '', layers = [] } = record;
  if (name !== undefined) requireName(name);
  if (name !== undefined) await requireFree(paths, owner, name);
  requireRoomAbove(layers);
  await using stack = await leaseStack(paths, image, layers);
  if (kill) await entered.sandbox.killAll();
  return mayFreeze(record)
    ? await freezeLayer(engine, entered, stack, name)
    : await copyUpper(engine, entered, options);
}

interface EnteredSandbox {
  readonly sandbox: PlannedSandbox;
  readonly kept: KeptCommand;
}

/** With SELinux, files that a sandbox wrote have its own label. A copy does not make the stack deeper. */
function mayFreeze({ scratch, labels, layers = [], init, machine }: SandboxRecord): boolean {
  if (scratch === undefined || machine !== undefined || labels?.module === 'selinux') return false;
  return layers.length < WIRE.lowerLayers - 1 && commandsOf(init).length === 0;
}

async function freezeLayer(
  { paths, owner }: Engine,
  { sandbox, kept }: EnteredSandbox,
  stack: LeasedStack,
  name: string | undefined,
): Promise<TakenSnapshot> {
  await using work = await openWorkDirectory(paths);
  const record = recordOf(sandbox, kept, { owner, name });
  const { id } = record;
  const made = join(work.path, id);
  mkdirSync(made, { mode: 0o700 });
  const folder = await publish(paths, owner, made, record);
  await using _lease = await holdSnapshot(folder);
  await sandbox.root.freeze(id, snapshotFiles.tree(folder), stack);
  return { id, folder, record, leftOut: 0 };
}

async function copyUpper(
  { paths, owner }: Engine,
  { sandbox, kept }: EnteredSandbox,
  { name, signal }: TakeOptions,
): Promise<TakenSnapshot> {
  const maxBytes = Math.min(DEFAULT_DISK, await storageLeft(paths, owner));
  await using work = await openWorkDirectory(paths);
  const empty = recordOf(sandbox, kept, { owner, name });
  const { id } = empty;
  const made = join(work.path, id);
  mkdirSync(made, { mode: 0o700 });
  mkdirSync(snapshotFiles.tree(made), { mode: 0o700 });
  const range = sandbox.idRange;
  await using home = await layerFolder(await sandbox.layers.open('/'), {
    ...{ paths, range, maxBytes, signal },
  });
  using from = closing(openDirectory(home.fd, 'upper'));
  using to = closing(mappedMount(made, range, { isWritten: true }));
  using watch = new DiskWatch(made);
  const signals = [watch.signal, ...(signal === undefined ? [] : [signal])];
  const { leftOut, ...counted } = await copyLayer({
    ...{ from: from.fd, home: to.fd, tree: 'tree', maxBytes, range },
    signal: AbortSignal.any(signals),
  });
  const record = { ...empty, ...counted };
  const folder = await publish(paths, owner, made, record);
  return { id, folder, record, leftOut: leftOut + home.leftOut };
}

function recordOf(
  sandbox: PlannedSandbox,
  { policy, env, workdir }: KeptCommand,
  { owner, name }: { owner: Engine['owner']; name: string | undefined },
): SnapshotRecord {
  const { user, capabilities, seccomp } = policy;
  const { image = '', layers = [] } = sandbox.record;
  return {
    ...{ id: randomBytes(5).toString('hex'), created: Date.now(), made: currentMoment() },
    ...(sandbox.record.machine === undefined ? {} : { isolation: 'vm' as const }),
    ...{ sandbox: sandbox.id, ...defined({ owner: owner?.uid, name }), image, layers },
    ...{ digest: UNSETTLED, bytes: 0, entries: 0 },
    command: { user, capabilities, seccomp: String(seccomp), env, workdir },
  };
}

/** @returns its folder, in which others see it once it has files */
async function publish(
  paths: Engine['paths'],
  owner: Engine['owner'],
  made: string,
  record: SnapshotRecord,
): Promise<string> {
  writeFileSync(snapshotFiles.lease(made), '', { mode: 0o600 });
  writeSnapshot(made, record);
  const folder = join(paths.snapshots, record.id);
  await withLock(publishLock(paths), async () => {
    if (record.name !== undefined) await requireFree(paths, owner, record.name);
    renameSync(made, folder);
  });
  return folder;
}

/** @throws KilnError E_SNAPSHOT */
function requireName(name: string): void {
  if (NAME.test(name) && !/^[0-9a-f]+$/.test(name)) return;
  throw new KilnError('E_SNAPSHOT', `${JSON.stringify(name)} is no name of a snapshot`, {
    hint: 'a name has up to 64 letters, digits, `_`, `.` and `-`, begins with a letter, and is no hexadecimal number: that is an id',
  });
}

async function requireFree(
  paths: Engine['paths'],
  owner: Engine['owner'],
  name: string,
): Promise<void> {
  const all = await listSnapshots(paths, owner);
  const other = all.find(({ record }) => record.name === name && record.owner === owner?.uid);
  if (other === undefined) return;
  throw new KilnError('E_SNAPSHOT', `snapshot ${other.id} is called ${name} already`, {
    hint: `take another name, or remove that one: \`kiln snapshot rm ${name}\``,
  });
}
