import { closeSync, constants, fstatSync, opendirSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { setImmediate as breathe } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import {
  O_PATH,
  openat2,
  openPath,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
} from '../../host/files/at.ts';
import { getXattrOf, setXattrOf } from '../../host/files/xattr.ts';

/** The attribute with a file's SELinux context: a string with its NUL (libselinux, setfilecon(3)). */
const ATTRIBUTE = 'security.selinux';

/** fcntl.h: relative to the working directory. */
const AT_FDCWD = -100;

/** A folder with more files was probably bound by mistake. */
const MOST_FILES = 2_000_000;

/** After this many files the event loop gets its turn. */
const BATCH = 500;

/** Relabelling one of these would break the host; podman refuses the same. */
const SYSTEM_DIRECTORIES = new Set(
  '/ /bin /boot /dev /etc /home /lib /lib32 /lib64 /libx32 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /usr/bin /usr/lib /usr/lib64 /usr/sbin /var /var/lib /var/log /var/tmp'.split(
    ' ',
  ),
);

const BELOW = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
};

/** The context of the file of `fd` (O_PATH or not); undefined if it has none. */
function contextOf(fd: number): string | undefined {
  return getXattrOf(fd, ATTRIBUTE)?.toString('latin1').replace(/\0$/, '');
}

/** The context of the file that `path` leads to; undefined if it has none. */
export function contextAt(path: string): string | undefined {
  const fd = openPlace(realpathSync(path));
  using _fd = closing(fd);
  return contextOf(fd);
}

/** Sets the context of the file of `fd` (O_PATH or not) unless it has it. */
function setContext(fd: number, context: string): void {
  if (contextOf(fd) !== context) setXattrOf(fd, ATTRIBUTE, Buffer.from(`${context}\0`));
}

/** Opens a path without following a link at its end, or reopens a descriptor. */
function openPlace(place: string | number): number {
  const flags = O_PATH | constants.O_NOFOLLOW;
  if (typeof place === 'number') return openat2(place, '.', { flags });
  return openat2(AT_FDCWD, place, { flags });
}

/** Gives one file or directory a context. Throws a SyscallError. */
export function labelFile(path: string, context: string): void {
  const fd = openPlace(path);
  using _fd = closing(fd);
  setContext(fd, context);
}

/**
 * Gives `place` (a path, or the descriptor of a directory) and everything below it a context. Follows no links
 * and stays on the file system. The place itself comes last, so that {@link hasContext} is true only for a
 * complete tree. Throws E_RELABEL.
 */
export async function relabelTree(place: string | number, context: string): Promise<void> {
  try {
    const root = openPlace(place);
    using _root = closing(root);
    if (fstatSync(root).isDirectory()) await relabelBelow(root, context);
    setContext(root, context);
  } catch (error) {
    if (error instanceof KilnError && error.code === 'E_RELABEL') throw error;
    throw new KilnError('E_RELABEL', `cannot give ${place} the context ${context}`, {
      cause: error,
      hint: 'its file system must keep labels of its own: not NFS, not one mounted with context=',
    });
  }
}

async function relabelBelow(root: number, context: string): Promise<void> {
  const directories: Buffer[] = [Buffer.from('.')];
  let count = 0;
  for (let path = directories.pop(); path !== undefined; path = directories.pop()) {
    let fd: number;
    try {
      fd = openat2(root, path, BELOW);
    } catch (error) {
      // The entry is gone, or on another file system.
      if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EXDEV')) continue;
      throw error;
    }
    try {
      for (const name of namesIn(fd)) {
        if (++count > MOST_FILES) throw tooMany();
        if (labelEntry(fd, name, context)) directories.push(joinBytes(path, name));
        if (count % BATCH === 0) await breathe();
      }
    } finally {
      closeSync(fd);
    }
  }
}

/** Labels one entry of a directory; true if the entry is a directory. */
function labelEntry(directory: number, name: Buffer, context: string): boolean {
  let fd: number;
  try {
    fd = openPath(directory, name);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false;
    throw error;
  }
  try {
    setContext(fd, context);
    return fstatSync(fd).isDirectory();
  } finally {
    closeSync(fd);
  }
}

function* namesIn(fd: number): Generator<Buffer> {
  const directory = opendirSync(`/proc/self/fd/${fd}`, { encoding: 'buffer' as BufferEncoding });
  try {
    for (let entry = directory.readSync(); entry !== null; entry = directory.readSync()) {
      yield entry.name as unknown as Buffer;
    }
  } finally {
    directory.closeSync();
  }
}

function joinBytes(path: Buffer, name: Buffer): Buffer {
  return Buffer.concat([path, Buffer.from('/'), name]);
}

function tooMany(): KilnError {
  return new KilnError('E_RELABEL', `more than ${MOST_FILES} files would get another label`, {
    hint: 'bind a smaller folder, or label it yourself (semanage fcontext, restorecon)',
  });
}

export function hasContext(path: string, context: string): boolean {
  const fd = openPlace(path);
  using _fd = closing(fd);
  return contextOf(fd) === context;
}

/** Throws E_RELABEL for folders that the host needs with their labels. */
export function refuseSystemDirectory(path: string): void {
  const real = realpathSync(path);
  if (!SYSTEM_DIRECTORIES.has(real) && real !== homedir()) return;
  throw new KilnError('E_RELABEL', `${path} is not relabelled: the host needs it as it is`, {
    hint: 'bind a folder below it, or leave z and Z away',
  });
}
