/**
 * Extended attributes of open files and directories, which Node does not offer (xattr(7)).
 * All throw a SyscallError.
 */
import { checked, cString, hasErrno, insistentCall, libc } from './libc.ts';

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h. */
const XATTR_MAX = 65536;

const call = {
  getxattr: libc.func(
    'long getxattr(const char *path, const char *name, void *value, size_t size)',
  ),
  setxattr: libc.func(
    'int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)',
  ),
  fgetxattr: libc.func('long fgetxattr(int fd, const char *name, void *value, size_t size)'),
  fsetxattr: libc.func(
    'int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)',
  ),
  fremovexattr: libc.func('int fremovexattr(int fd, const char *name)'),
  flistxattr: libc.func('long flistxattr(int fd, void *list, size_t size)'),
};

/** Reused by all calls: they are synchronous. */
const scratch = Buffer.allocUnsafe(XATTR_MAX);

/** The attribute's value (a copy), or undefined when there is none or the file system has none at all. */
export function getXattr(fd: number, name: string): Buffer | undefined {
  return read('fgetxattr', name, () => call.fgetxattr(fd, cString(name), scratch, scratch.length));
}

function read(what: string, name: string, ask: () => number | bigint): Buffer | undefined {
  try {
    return Buffer.from(scratch.subarray(0, insistentCall(what, ask, name)));
  } catch (error) {
    if (hasErrno(error, 'ENODATA', 'EOPNOTSUPP')) return undefined;
    throw error;
  }
}

/** Sets or replaces an attribute. */
export function setXattr(fd: number, name: string, value: Buffer): void {
  checked('fsetxattr', call.fsetxattr(fd, cString(name), value, value.length, 0), name);
}

/**
 * Like {@link getXattr}, for descriptors with O_PATH, too, on which the kernel allows neither call:
 * through the link in /proc that names exactly what the descriptor does, a symbolic link itself.
 */
export function getXattrOf(fd: number, name: string): Buffer | undefined {
  const path = `/proc/self/fd/${fd}`;
  return read('getxattr', name, () => call.getxattr(path, cString(name), scratch, scratch.length));
}

/** Like {@link setXattr}, for descriptors with O_PATH, too. */
export function setXattrOf(fd: number, name: string, value: Buffer): void {
  const result = call.setxattr(`/proc/self/fd/${fd}`, cString(name), value, value.length, 0);
  checked('setxattr', result, name);
}

/** Removes an attribute that is there. */
export function removeXattr(fd: number, name: string): void {
  checked('fremovexattr', call.fremovexattr(fd, cString(name)), name);
}

/** Names of all attributes. */
export function listXattrs(fd: number): string[] {
  let length: number;
  try {
    length = insistentCall('flistxattr', () => call.flistxattr(fd, scratch, scratch.length));
  } catch (error) {
    if (hasErrno(error, 'EOPNOTSUPP')) return [];
    throw error;
  }
  return scratch.toString('utf8', 0, length).split('\0').slice(0, -1);
}
