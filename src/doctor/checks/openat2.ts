import { closeSync, constants, openSync } from 'node:fs';
import { openat2, RESOLVE_IN_ROOT } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';
import { type Check, fail, ok, reason } from '../check.ts';
import { nearestExisting } from './state-directory.ts';

/** openat2 keeps a path inside a tree: artifacts are collected with it. Tried. */
export const openat2Call: Check = {
  name: 'openat2',
  async run({ paths }) {
    const root = openSync(await nearestExisting(paths.root), constants.O_RDONLY);
    try {
      // Were `..` not held at the root, this would be another directory, or none.
      const flags = constants.O_RDONLY | constants.O_DIRECTORY;
      closeSync(openat2(root, '../../../..', { flags, resolve: RESOLVE_IN_ROOT }));
      return ok('paths can be kept inside a tree');
    } catch (error) {
      return fail(
        `openat2: ${reason(error)}`,
        'artifacts cannot be collected safely',
        hasErrno(error, 'ENOSYS', 'EPERM')
          ? 'use Linux 5.6 or newer; in a container, a seccomp profile that knows openat2'
          : 'see what forbids it: dmesg, journalctl',
      );
    } finally {
      closeSync(root);
    }
  },
};
