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

/** The ids of the command, and of whoever started kiln: binds map the one to the other. */
export interface BindOwners {
  readonly user: { readonly uid: number; readonly gid: number };
  readonly caller: { readonly uid: number; readonly gid: number };
  /** Further groups of the caller's. */
  readonly groups: readonly number[];
}

/** As many groups as a map takes: it is written at once, in one page (user_namespaces(7)). */
const GROUPS_MAX = 150;

export class Descriptors implements Disposable {
  readonly fds: number[] = [];
  readonly sources: string[] = [];

  /** Takes a descriptor over. Throws E_BIND for one more than a message takes. */
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

/** What every mount from outside has, also one that the sandbox may write to. */
export const WRITABLE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

/** A detached, nosuid, nodev copy of the mount at `path`, its owners mapped by `userNamespace`. */
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
    // What was looked at, and nothing that has taken its place meanwhile.
    const opened = `/proc/self/fd/${file}`;
    const directory = statSync(opened).isDirectory();
    const fd = descriptors.add(detach(opened, namespace, readonly, source), source);
    return { op: 'bind', fd, access, directory, path };
  } finally {
    closeSync(file);
  }
}

/**
 * Only the caller's own ids cross the border of a bind; everybody else is nobody in the sandbox. A folder whose group
 * is nobody's takes no new files, so the caller's other groups are there by their numbers.
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
