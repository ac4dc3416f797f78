import { fstatSync } from 'node:fs';
import { FileSystems, reopenFile } from '../../artifacts/source.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno, unlessErrno } from '../../host/calls/libc.ts';
import {
  O_PATH,
  openat2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from '../../host/files/at.ts';
import { actingAs, type UserIds } from '../../host/process/user-namespace.ts';
import type { FilesInside } from '../domain/ground.ts';

const RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

/**
 * Opens a file of a sandbox. A link on the way may be the command's: then only the rights of the command's `user`
 * count, and none leads out. What the kernel only shows as a file (/proc, /sys) is none: here it would be opened with
 * root's rights.
 * @throws KilnError E_ARGUMENT for what is no plain file, E_PATH; SyscallError
 */
export function openFile(root: number, path: string, user: UserIds): number {
  if (!path.startsWith('/')) throw notFileError(path, 'it is not an absolute path');
  try {
    const direct = unlessErrno(['ELOOP'], () => open(root, path, RESOLVE | RESOLVE_NO_SYMLINKS));
    return direct ?? actingAs(user, () => open(root, path, RESOLVE));
  } catch (cause) {
    throw fileError(path, cause);
  }
}

/** As {@link openFile}, where the sandbox is a machine, which opens it. */
export async function readInside(
  files: FilesInside,
  path: string,
  offset: number,
  user: UserIds,
): Promise<{ readonly bytes: Buffer; readonly size: number }> {
  if (!path.startsWith('/')) throw notFileError(path, 'it is not an absolute path');
  return await files.read({ path, offset }, user).catch((cause: unknown) => {
    throw hasErrno(cause, 'EISDIR') ? notFileError(path, NOT_PLAIN) : fileError(path, cause);
  });
}

/**
 * As {@link openFile}, of a file or folder that is only named (O_PATH), with the rights of the command's `user` alone
 * whatever leads to it. @param title what messages call it @throws KilnError E_ARGUMENT, E_PATH; SyscallError
 */
export function openInside(root: number, path: string, user: UserIds, title = path): number {
  if (!path.startsWith('/')) throw notFileError(title, 'it is not an absolute path');
  try {
    return actingAs(user, () => openat2(root, path, { flags: O_PATH, resolve: RESOLVE }));
  } catch (cause) {
    throw fileError(title, cause);
  }
}

function fileError(path: string, cause: unknown): unknown {
  if (hasErrno(cause, 'ENOENT')) return notFileError(path, 'it does not exist', 'E_PATH');
  if (hasErrno(cause, 'EACCES', 'EPERM')) return behindLinkError(path, 'read', cause);
  return cause;
}

const NOT_PLAIN = 'it is not a plain file';

function open(root: number, path: string, resolve: number): number {
  using found = closing(openat2(root, path, { flags: O_PATH, resolve }));
  const stats = fstatSync(found.fd, { bigint: true });
  if (!stats.isFile() || new FileSystems().isPseudo(found.fd, stats)) {
    throw notFileError(path, NOT_PLAIN);
  }
  // Does not wait for the end of a lease that a command may hold on the file (fcntl(2)).
  return reopenFile(found.fd);
}

export function notFileError(path: string, why: string, code: ErrorCode = 'E_ARGUMENT'): KilnError {
  return new KilnError(code, `path: ${path}: ${why}`, { hint: 'name a file in the sandbox' });
}

export function behindLinkError(path: string, what: 'read' | 'write', cause: unknown): KilnError {
  return new KilnError('E_ARGUMENT', `path: ${path}: the command’s user may not ${what} it`, {
    hint: 'behind a symbolic link only the rights of that user count: name the file itself',
    cause,
  });
}
