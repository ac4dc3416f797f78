/**
 * Extended attributes of open files and directories, which Node does not offer (xattr(7)).
 * All throw a SyscallError.
 */
import { cString, hasErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h. */
const XATTR_MAX = 65536;

/** Reused by all calls: they are synchronous. */
const scratch = Buffer.allocUnsafe(XATTR_MAX);

/** The attribute's value (a copy), or undefined when there is none or the file system has none at all. */
export function getXattr(fd: number, name: string): Buffer | undefined {
  return read('fgetxattr', fd, name);
}

function read(
  call: 'fgetxattr' | 'getxattr',
  file: number | string,
  name: string,
): Buffer | undefined {
  try {
    const length = tryCall(call, file, cString(name), scratch, scratch.length);
    return Buffer.from(scratch.subarray(0, checked(call, length, name)));
  } catch (error) {
    if (hasErrno(error, 'ENODATA', 'EOPNOTSUPP')) return undefined;
    throw error;
  }
}

/** Sets or replaces an attribute. */
export function setXattr(fd: number, name: string, value: Buffer): void {
  checked('fsetxattr', tryCall('fsetxattr', fd, cString(name), value, value.length, 0), name);
}

/**
 * Like {@link getXattr}, also for descriptors with O_PATH, on which the kernel allows neither call: it goes
 * through the link in /proc that names the very file of the descriptor, even if that file is a symbolic link.
 */
export function getXattrOf(fd: number, name: string): Buffer | undefined {
  return read('getxattr', `/proc/self/fd/${fd}`, name);
}

/** Like {@link setXattr}, for descriptors with O_PATH, too. */
export function setXattrOf(fd: number, name: string, value: Buffer): void {
  const path = `/proc/self/fd/${fd}`;
  checked('setxattr', tryCall('setxattr', path, cString(name), value, value.length, 0), name);
}

export function removeXattr(fd: number, name: string): void {
  checked('fremovexattr', tryCall('fremovexattr', fd, cString(name)), name);
}

/** Names of all attributes. */
export function listXattrs(fd: number): string[] {
  let length: number;
  try {
    length = checked('flistxattr', tryCall('flistxattr', fd, scratch, scratch.length));
  } catch (error) {
    if (hasErrno(error, 'EOPNOTSUPP')) return [];
    throw error;
  }
  return scratch.toString('utf8', 0, length).split('\0').slice(0, -1);
}
