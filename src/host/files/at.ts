/**
 * System calls on names relative to a directory descriptor, which Node does not offer. They walk and write a
 * tree that an attacker owns without ever resolving a path that the attacker could redirect.
 *
 * Names are single components as bytes unless said otherwise. All throw a SyscallError. Sources: openat2(2),
 * mkdirat(2), linkat(2), symlinkat(2), readlinkat(2), renameat(2), unlinkat(2), utimensat(2).
 */
import { constants } from 'node:fs';
import { constants as os } from 'node:os';
import { cString } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';

/** Missing from Node's constants. The number is the same on every architecture where Node runs on Linux. */
export const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

/** `resolve` flags of openat2, from linux/openat2.h. */
export const RESOLVE_NO_XDEV = 0x01;
export const RESOLVE_NO_MAGICLINKS = 0x02;
export const RESOLVE_NO_SYMLINKS = 0x04;
export const RESOLVE_BENEATH = 0x08;
export const RESOLVE_IN_ROOT = 0x10;

/** With these flags, any rename or mount on the machine can make the look-up fail with EAGAIN (openat2(2)). */
const SCOPED = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
const SCOPED_ATTEMPTS = 1000;

const S_IFIFO = 0o010000;
const AT_REMOVEDIR = 0x200;
/** PATH_MAX of linux/limits.h: no link can be longer. */
const PATH_MAX = 4096;

const AT_SYMLINK_NOFOLLOW = 0x100;

/** How {@link openat2} opens. */
export interface OpenHow {
  /** O_ flags; O_CLOEXEC is always added. */
  readonly flags: number;
  /** Mode of a file that is made (O_CREAT only). */
  readonly mode?: number;
  /** RESOLVE_ flags. With them, `path` may have several components. */
  readonly resolve?: number;
}

/** Opens `path` below the directory `dirfd`; the caller closes the descriptor it returns. */
export function openat2(
  dirfd: number,
  path: Buffer | string,
  { flags, mode = 0, resolve = 0 }: OpenHow,
): number {
  // struct open_how of linux/openat2.h
  const openHow = BigUint64Array.of(BigInt(flags | O_CLOEXEC), BigInt(mode), BigInt(resolve));
  const name = cString(path);
  const attempts = (resolve & SCOPED) === 0 ? 1 : SCOPED_ATTEMPTS;
  let result = 0;
  for (let attempt = 1; attempt <= attempts; attempt++) {
    result = tryCall('openat2', dirfd, name, openHow, openHow.byteLength);
    if (result !== -os.errno.EAGAIN) break;
  }
  return checked('openat2', result, path);
}

const ENTRY_ITSELF: OpenHow = { flags: O_PATH | constants.O_NOFOLLOW };
const REAL_DIRECTORY: OpenHow = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW,
};

/**
 * Opens one directory entry by name only (O_PATH): a fifo does not block, a device does not act, and a link is
 * not followed. `fstat` of the result says what the entry is.
 */
export function openPath(dirfd: number, name: Buffer | string): number {
  return openat2(dirfd, name, ENTRY_ITSELF);
}

/** Opens a real directory (never through a link) that is an entry of `dirfd`. */
export function openDirectory(dirfd: number, name: Buffer | string): number {
  return openat2(dirfd, name, REAL_DIRECTORY);
}

export function mkdirat(dirfd: number, name: Buffer | string, mode: number): void {
  const path = cString(name);
  checked('mkdirat', tryCall('mkdirat', dirfd, path, mode), name);
}

/** Makes a fifo; the process's umask takes its bits from `mode`. */
export function mkfifoat(dirfd: number, name: Buffer | string, mode: number): void {
  const path = cString(name);
  checked('mkfifoat', tryCall('mknodat', dirfd, path, S_IFIFO | mode, 0), name);
}

/** Gives the entry `oldName` a second name; a symbolic link is linked itself, not followed. */
export function linkat(
  from: number,
  oldName: Buffer | string,
  to: number,
  newName: Buffer | string,
): void {
  const name = cString(newName);
  const old = oldName === newName ? name : cString(oldName);
  checked('linkat', tryCall('linkat', from, old, to, name, 0), newName);
}

export function symlinkat(target: Buffer | string, dirfd: number, name: Buffer | string): void {
  const [content, path] = [cString(target), cString(name)];
  checked('symlinkat', tryCall('symlinkat', content, dirfd, path), name);
}

/** A symbolic link's target. An empty `name` reads the link that `dirfd` itself is (O_PATH). */
export function readlinkat(dirfd: number, name: Buffer | string): Buffer {
  const target = Buffer.allocUnsafe(PATH_MAX);
  const path = cString(name);
  const length = checked('readlinkat', tryCall('readlinkat', dirfd, path, target, PATH_MAX), name);
  return target.subarray(0, length);
}

/** Renames, replacing what is there at once (a directory only an empty one). */
export function renameat(
  from: number,
  oldName: Buffer | string,
  to: number,
  newName: Buffer | string,
): void {
  const [old, name] = [cString(oldName), cString(newName)];
  checked('renameat', tryCall('renameat2', from, old, to, name, 0), newName);
}

export function unlinkat(
  dirfd: number,
  name: Buffer | string,
  options: { readonly directory?: boolean } = {},
): void {
  const flags = options.directory === true ? AT_REMOVEDIR : 0;
  const path = cString(name);
  checked('unlinkat', tryCall('unlinkat', dirfd, path, flags), name);
}

/** Sets the owner of an entry itself (a link is not followed). */
export function lchownat(dirfd: number, name: Buffer | string, uid: number, gid: number): void {
  const path = cString(name);
  checked('fchownat', tryCall('fchownat', dirfd, path, uid, gid, AT_SYMLINK_NOFOLLOW), name);
}

/** Access and modification time in nanoseconds since 1970; Node's own calls round them. */
export interface FileTimes {
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
}

/** Sets the times of an entry itself; without a name, those of the open file `fd`. */
export function setTimes(fd: number, times: FileTimes, name?: Buffer | string): void {
  const spec = new BigInt64Array(4);
  writeTimespec(spec, 0, times.atimeNs);
  writeTimespec(spec, 2, times.mtimeNs);
  const path = name === undefined ? null : cString(name);
  const flags = name === undefined ? 0 : AT_SYMLINK_NOFOLLOW;
  checked('utimensat', tryCall('utimensat', fd, path, spec, flags), name);
}

/** struct timespec {time_t, long}, both 64 bits wide; nanoseconds are never negative. */
function writeTimespec(spec: BigInt64Array, at: number, nanoseconds: bigint): void {
  const second = 1_000_000_000n;
  const part = ((nanoseconds % second) + second) % second;
  spec[at] = (nanoseconds - part) / second;
  spec[at + 1] = part;
}
