import { randomBytes } from 'node:crypto';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../defined.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { openDirectory } from '../host/files/at.ts';
import { withLock } from '../host/files/flock.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  setMountAttributes,
} from '../host/files/mount.ts';
import { createUserNamespace } from '../host/process/user-namespace.ts';
import { DEFAULT_DISK, DiskWatch } from '../host/state/disk-watch.ts';
import { currentMoment } from '../image/store/durability.ts';
import {
  listSnapshots,
  type Snapshot,
  type SnapshotRecord,
  snapshotFiles,
  writeSnapshot,
} from '../image/store/snapshots.ts';
import { storageLeft } from '../image/store/user-storage.ts';
import { openWorkDirectory, publishLock } from '../image/store/work-directory.ts';
import type { SandboxRecord } from '../sandbox/domain/sandbox-record.ts';
import type { KeptCommand } from '../sandbox/door/plan.ts';
import type { PlannedSandbox } from '../sandbox/door/planned-sandbox.ts';
import { copyLayer } from './copy.ts';
import { leaseStack, requireRoomAbove } from './stack.ts';

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
 * Copies what a sandbox has written to its root into the store. It is there whole, or not at all.
 * @throws KilnError E_SNAPSHOT, E_SANDBOX_GONE, E_DISK, E_DISK_LOW, E_DISK_FULL, the signal's reason
 */
export async function takeSnapshot(
  { paths, owner }: Engine,
  { sandbox, kept }: { readonly sandbox: PlannedSandbox; readonly kept: KeptCommand },
  { image, layers = [] }: SandboxRecord,
  { name, kill = false, signal }: TakeOptions = {},
): Promise<TakenSnapshot> {
  if (name !== undefined) requireName(name);
  if (name !== undefined) await requireFree(paths, owner, name);
  requireRoomAbove(layers);
  await using _stack = await leaseStack(paths, image ?? '', layers);
  const maxBytes = Math.min(DEFAULT_DISK, await storageLeft(paths, owner));
  if (kill) await sandbox.killAll();
  await using work = await openWorkDirectory(paths);
  const id = randomBytes(5).toString('hex');
  const made = join(work.path, id);
  const tree = snapshotFiles.tree(made);
  mkdirSync(made, { mode: 0o700 });
  mkdirSync(tree, { mode: 0o700 });
  const range = sandbox.idRange;
  using home = closing(await sandbox.layers.open('/'));
  using from = closing(openDirectory(home.fd, 'upper'));
  using to = closing(mappedMount(made, range));
  using watch = new DiskWatch(made);
  const signals = [watch.signal, ...(signal === undefined ? [] : [signal])];
  const { leftOut, digest, bytes, entries } = await copyLayer({
    ...{ from: from.fd, home: to.fd, tree: 'tree', maxBytes, range },
    signal: AbortSignal.any(signals),
  });
  const { policy, env, workdir } = kept;
  const { user, capabilities, seccomp } = policy;
  const record: SnapshotRecord = {
    ...{ id, created: Date.now(), made: currentMoment(), sandbox: sandbox.id },
    ...defined({ owner: owner?.uid, name }),
    ...{ image: image ?? '', layers, digest, bytes, entries },
    command: { user, capabilities, seccomp: String(seccomp), env, workdir },
  };
  writeFileSync(snapshotFiles.lease(made), '', { mode: 0o600 });
  writeSnapshot(made, record);
  const folder = join(paths.snapshots, id);
  await withLock(publishLock(paths), async () => {
    if (name !== undefined) await requireFree(paths, owner, name);
    renameSync(made, folder);
  });
  return { id, state: 'kept', folder, record, leftOut };
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

/** Where the ids in a sandbox are those that files have on the disk. The caller closes it. */
export function mappedMount(
  path: string,
  { base, count }: { readonly base: number; readonly count: number },
): number {
  using users = closing(createUserNamespace([{ inside: 0, outside: base, count }]));
  const mount = cloneMount(path);
  const set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  try {
    setMountAttributes(mount, { set, userNamespace: users.fd });
    return mount;
  } catch (error) {
    closing(mount)[Symbol.dispose]();
    throw error;
  }
}
