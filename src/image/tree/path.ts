import { constants } from 'node:fs';
import { O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';

/**
 * Opens `path` as somebody whose root is the open directory `root` would: links are followed, and
 * none leads out. Undefined if it does not exist. The caller closes the descriptor.
 */
export function openInTree(root: number, path: Buffer | string, flags: number): number | undefined {
  try {
    // A fifo must not hang us; with O_PATH nothing is opened, and the kernel takes no such flag.
    const unblocked = (flags & O_PATH) === 0 ? flags | constants.O_NONBLOCK : flags;
    return openat2(root, path, {
      flags: unblocked,
      resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    });
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO')) return undefined;
    throw error;
  }
}
