import { constants } from 'node:fs';
import { openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';

/**
 * Opens `path` as somebody whose root is the open directory `root` would: links are followed, and
 * none leads out. Undefined if it does not exist. The caller closes the descriptor.
 */
export function openInTree(root: number, path: Buffer | string, flags: number): number | undefined {
  try {
    // O_NONBLOCK: a fifo must not hang us.
    return openat2(root, path, {
      flags: flags | constants.O_NONBLOCK,
      resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    });
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO')) return undefined;
    throw error;
  }
}
