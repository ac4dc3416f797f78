import { closeSync } from 'node:fs';
import { hasErrno } from '../../kernel/libc.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  setMountAttributes,
} from '../../kernel/mount.ts';
import { createUserNamespace } from '../../kernel/user-namespace.ts';
import { idBlock, RANGE_SIZE } from '../../sandbox/id-range.ts';
import { type Check, fail, ok, reason } from '../check.ts';
import { mountOf } from '../host.ts';
import { nearestExisting } from './state-directory.ts';

/** The file system of KILN_STATE takes an ID map, as every image is handed to a box: tried. */
export const idMappedMounts: Check = {
  name: 'id-mapped-mounts',
  async run({ paths }) {
    const directory = await nearestExisting(paths.root);
    const { type } = await mountOf(directory);
    const opened: number[] = [];
    try {
      const { start } = await idBlock();
      const userNamespace = createUserNamespace([{ inside: 0, outside: start, count: RANGE_SIZE }]);
      opened.push(userNamespace);
      const mount = cloneMount(directory);
      opened.push(mount);
      setMountAttributes(mount, { set: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, userNamespace });
      return ok(`${type} below ${directory} takes an ID map`);
    } catch (error) {
      const unsupported = hasErrno(error, 'EINVAL');
      return fail(
        `${type} below ${directory}: ${reason(error)}`,
        'images cannot be handed to boxes',
        unsupported
          ? 'set KILN_STATE to a file system with ID-mapped mounts: ext4, xfs, btrfs, tmpfs'
          : 'run as root, outside of containers that forbid open_tree and mount_setattr',
      );
    } finally {
      for (const fd of opened) closeSync(fd);
    }
  },
};
