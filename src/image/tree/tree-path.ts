import { constants } from 'node:fs';
import { basename, dirname } from 'node:path';
import { O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';

/**
 * Opens `path` as somebody whose root is the open directory `root` would: links are followed, and
 * none leads out. Undefined if it does not exist. The caller closes the descriptor.
 */
export function openInTree(root: number, path: string, flags: number): number | undefined {
  try {
    // O_NONBLOCK: a fifo must not hang us.
    return openat2(root, path, {
      flags: flags | constants.O_NONBLOCK,
      resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    });
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
}

/** The open directory that holds `path`'s last component, and that component's name. */
export function openParent(
  root: number,
  path: string,
): { readonly directory: number; readonly name: string } | undefined {
  const directory = openInTree(root, dirname(path), O_PATH | constants.O_DIRECTORY);
  return directory === undefined ? undefined : { directory, name: basename(path) };
}
