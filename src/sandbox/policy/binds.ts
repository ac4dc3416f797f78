/** Mounts from outside, each with the owners that its sandbox may see. */
import { closeSync, statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  setMountAttributes,
} from '../../host/files/mount.ts';
import { createUserNamespace } from '../../host/process/user-namespace.ts';
import { tooManyMounts } from '../command/failures.ts';
import type { IdRange } from '../domain/id-range.ts';
import { type SetupOperation, WIRE } from '../wire/table.ts';
import { openBind } from './host-write.ts';
import type { Bind } from './specification.ts';

/** The ids of the command and of the caller: binds map one to the other. */
export interface BindOwners {
  readonly user: { readonly uid: number; readonly gid: number };
  readonly caller: { readonly uid: number; readonly gid: number };
  /** Further groups of the caller. */
  readonly groups: readonly number[];
}

/** The most groups in a map: it is written in one go, in one page (user_namespaces(7)). */
const GROUPS_MAX = 150;

export class Descriptors implements Disposable {
  readonly fds: number[] = [];
  readonly sources: string[] = [];

  /** Takes over a descriptor. Throws E_BIND if there are more than a message takes. */
  add(fd: number, source: string): number {
    if (this.fds.length === WIRE.descriptors) {
      closeDescriptor(fd);
      throw tooManyMounts(source);
    }
    this.sources.push(source);
    return this.fds.push(fd) - 1;
  }

  [Symbol.dispose](): void {
    for (const fd of this.fds.splice(0)) closeDescriptor(fd);
  }
}

/** Attributes of every mount from outside, also of writable ones. */
export const WRITABLE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

/** A detached, nosuid, nodev copy of the mount at `path`, with owners mapped by `userNamespace`. */
export function detach(
  path: string,
  userNamespace: number,
  readonly: boolean,
  name: string = path,
): number {
  const fd = cloneMount(path);
  try {
    const set = WRITABLE | (readonly ? MOUNT_ATTR_RDONLY : 0);
    setMountAttributes(fd, { set, userNamespace });
    return fd;
  } catch (error) {
    closeDescriptor(fd);
    throw new KilnError('E_IDMAP', `cannot map the owners of ${name} into the sandbox`, {
      cause: error,
      hint: 'its file system must support ID-mapped mounts (ext4, xfs, btrfs, tmpfs do): see `kiln doctor`',
    });
  }
}

/** @param check looks at the file that is bound, before it is, and throws what is against that */
export function bindOperation(
  bind: Bind,
  namespace: number,
  descriptors: Descriptors,
  check: (source: string, fd: number) => void,
): SetupOperation {
  const { source, target: path, readonly, own } = bind;
  const file = openBind(bind);
  try {
    const access = readonly ? 'readonly' : own === true ? 'own' : 'host';
    if (access === 'host') check(source, file);
    // Binds the file that was checked, even if another has taken its place since.
    const opened = `/proc/self/fd/${file}`;
    const directory = statSync(opened).isDirectory();
    const fd = descriptors.add(detach(opened, namespace, readonly, source), source);
    return { op: 'bind', fd, access, directory, path };
  } finally {
    closeSync(file);
  }
}

/**
 * Only the caller's own ids are mapped in a bind; everybody else is nobody in the sandbox. A folder whose group
 * is not mapped takes no new files, so the caller's other groups are mapped to their own numbers.
 */
export function bindNamespace(range: IdRange, { user, caller, groups }: BindOwners): number {
  const others = [...new Set(groups)]
    .filter((gid) => gid !== caller.gid && gid !== user.gid && gid < range.count - 1)
    .slice(0, GROUPS_MAX);
  return createUserNamespace(
    [{ inside: caller.uid, outside: range.base + user.uid, count: 1 }],
    [
      { inside: caller.gid, outside: range.base + user.gid, count: 1 },
      ...others.map((gid) => ({ inside: gid, outside: range.base + gid, count: 1 })),
    ],
  );
}
