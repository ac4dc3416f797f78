/** What a sandbox has written, as a folder of this host. */
import { constants, fstatSync, mkdirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { Budget } from '../artifacts/budget.ts';
import { KilnError } from '../errors.ts';
import { closeDescriptor, closing } from '../host/calls/descriptor.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  setMountAttributes,
} from '../host/files/mount.ts';
import { createUserNamespace } from '../host/process/user-namespace.ts';
import { beginStage } from '../host/process/work.ts';
import { DEFAULT_DISK, refuseLowDisk } from '../host/state/disk-watch.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { IdRange } from '../host/state/reservation.ts';
import { receivePacked, unpackPacked } from '../image/archive/packed.ts';
import { openWorkDirectory } from '../image/store/work-directory.ts';

export interface LayerFolder extends AsyncDisposable {
  /** In it lies `upper`, which is hostile. */
  readonly fd: number;
  /** Fifos, sockets and devices that are not in it. */
  readonly leftOut: number;
}

interface FolderRequest {
  readonly paths: StatePaths;
  /** Of the sandbox, which its files belong to. */
  readonly range: IdRange;
  /** Of a machine's files. */
  readonly maxBytes?: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * What Layers.open() has opened. A machine sends an archive, which is unpacked on the disk of the state: a copy, then,
 * with times of milliseconds, without holes and access control lists. Closes `opened`.
 * @throws KilnError E_MACHINE, E_ARTIFACT_LIMIT, E_DISK, E_DISK_FULL, E_DISK_LOW, the signal's reason
 */
export async function layerFolder(
  opened: number,
  { paths, range, maxBytes = DEFAULT_DISK, signal }: FolderRequest,
): Promise<LayerFolder> {
  await using stack = new AsyncDisposableStack();
  if (fstatSync(opened).isDirectory()) {
    const { fd } = stack.use(closing(opened));
    const held = stack.move();
    return { fd, leftOut: 0, [Symbol.asyncDispose]: () => held.disposeAsync() };
  }
  const given = signal ?? new AbortController().signal;
  const making = openWorkDirectory(paths).catch((error: unknown) => {
    closeDescriptor(opened);
    throw error;
  });
  const work = stack.use(await making);
  const [archive, home] = [join(work.path, 'layer.tar'), join(work.path, 'layer')];
  beginStage('fetching files from the machine');
  const room = (size: number) => refuseLowDisk(work.path, size);
  await receivePacked(opened, archive, new Budget({ bytes: maxBytes }, given, room), given);
  requireEnd(archive);
  mkdirSync(home, { mode: 0o700 });
  const what = 'what was written';
  const left = await unpackPacked(archive, home, { what, maxBytes, signal: given, range });
  const { fd } = stack.use(closing(mappedMount(home, range)));
  const held = stack.move();
  return { fd, leftOut: left.length, [Symbol.asyncDispose]: () => held.disposeAsync() };
}

/** The entry of `upper` itself, which src/guest/machine/layer.c writes last, and two blocks of zeros. Bytes; tar(5). */
const END = { name: 'upper\0', folder: ['5'.charCodeAt(0), 156], block: 512, size: 1536 } as const;

/** Files may end with zeros as well: only the last entry tells that nothing is missing. @throws KilnError E_MACHINE */
function requireEnd(archive: string): void {
  using opened = closing(openSync(archive, constants.O_RDONLY));
  const { size } = fstatSync(opened.fd);
  const end = Buffer.alloc(END.size);
  const read = readSync(opened.fd, end, 0, END.size, Math.max(0, size - END.size));
  const [type, at] = END.folder;
  const isNamed = end.toString('latin1', 0, END.name.length) === END.name && end[at] === type;
  if (read === END.size && isNamed && end.subarray(END.block).every((byte) => byte === 0)) return;
  throw new KilnError('E_MACHINE', 'the machine could not send all that was written in it', {
    hint: 'end what still writes there; folders deeper than 900, and files with more than 512 KiB of attributes, cannot be sent',
  });
}

/** Where the ids in a sandbox are those that files have on the disk: to be read, as a rule. The caller closes it. */
export function mappedMount(
  path: string,
  { base, count }: IdRange,
  { isWritten = false } = {},
): number {
  using users = closing(createUserNamespace([{ inside: 0, outside: base, count }]));
  const mount = cloneMount(path);
  const access = isWritten ? 0 : MOUNT_ATTR_RDONLY;
  const set = access | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  try {
    setMountAttributes(mount, { set, userNamespace: users.fd });
    return mount;
  } catch (error) {
    closing(mount)[Symbol.dispose]();
    throw error;
  }
}
