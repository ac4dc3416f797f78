/**
 * Walks and writes a tree that an attacker owns, by names relative to a directory descriptor: no path is
 * resolved that the attacker could redirect.
 * Names are single components as bytes unless said otherwise. All throw a SyscallError. Sources: openat2(2),
 * mkdirat(2), linkat(2), symlinkat(2), readlinkat(2), renameat(2), unlinkat(2), utimensat(2), getdents64(2).
 */
import { type BigIntStats, constants, fstatSync } from 'node:fs';
import { constants as os } from 'node:os';
import { closing } from '../calls/descriptor.ts';
import { cString, unlessErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';

export const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
/** fcntl.h: relative to the working directory. */
export const AT_FDCWD = -100;

type Name = Buffer | string;

/** `resolve` flags of openat2, from linux/openat2.h. */
const RESOLVE_NO_XDEV = 0x01;
export const RESOLVE_NO_MAGICLINKS = 0x02;
export const RESOLVE_NO_SYMLINKS = 0x04;
export const RESOLVE_BENEATH = 0x08;
export const RESOLVE_IN_ROOT = 0x10;

/** Below a directory, through no link. */
export const RESOLVE_BELOW = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
/** And on no other mount. */
export const RESOLVE_WITHIN = RESOLVE_BELOW | RESOLVE_NO_XDEV;

/** With these flags, any rename or mount on the machine can make the look-up fail with EAGAIN (openat2(2)). */
const SCOPED = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
const SCOPED_ATTEMPTS = 1000;

const S_IFIFO = 0o010000;
const AT_REMOVEDIR = 0x200;
const PATH_MAX = 4096;

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_SYMLINK_FOLLOW = 0x400;
const O_TMPFILE = 0o20200000;

export interface OpenHow {
  readonly flags: number;
  readonly mode?: number;
  readonly resolve?: number;
}

export function openat2(
  dirfd: number,
  path: Name,
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
/** Never what is there already. */
export const NEW_FILE: OpenHow = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o600,
};
/** Never on another file system, and never through a link. */
export const SAME_DISK_DIRECTORY: OpenHow = {
  ...REAL_DIRECTORY,
  resolve: RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
};

/** No link; a fifo does not block, and a terminal does not become this process's. */
export const FILE_ITSELF: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY,
};

/** A directory below the given one, through no link. */
export const DIRECTORY_BELOW: OpenHow = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY,
  resolve: RESOLVE_BELOW,
};
export const DIRECTORY_WITHIN: OpenHow = { ...DIRECTORY_BELOW, resolve: RESOLVE_WITHIN };

/** A file below a directory, through no link; a fifo does not block. */
export const FILE_BELOW: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
  resolve: RESOLVE_BELOW,
};

/** The name only (O_PATH) of what lies below a directory, through no link, and a link itself. */
export const ENTRY_BELOW: OpenHow = {
  flags: O_PATH | constants.O_NOFOLLOW,
  resolve: RESOLVE_BELOW,
};

/** A file or folder below a directory, by links that do not lead out of it; a fifo does not block. */
export const BENEATH: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
};

/** Opens the name only (O_PATH): a fifo does not block, a device does not act, a link is not followed. */
export function openPath(dirfd: number, name: Name): number {
  return openat2(dirfd, name, ENTRY_ITSELF);
}

/** What is there; undefined if nothing is. */
export function statAt(dirfd: number, name: Name): BigIntStats | undefined {
  return unlessErrno(['ENOENT'], () => {
    using entry = closing(openPath(dirfd, name));
    return fstatSync(entry.fd, { bigint: true });
  });
}

export function openDirectory(dirfd: number, name: Name): number {
  return openat2(dirfd, name, REAL_DIRECTORY);
}

/** A file without a name, in a directory: {@link nameFile} gives it one. Nothing is left of it otherwise. */
export function openNameless(directory: number): number {
  return openat2(directory, '.', { flags: constants.O_RDWR | O_TMPFILE, mode: 0o600 });
}

/** Never in place of what is there. */
export function nameFile(fd: number, dirfd: number, name: Name): void {
  const path = `/proc/self/fd/${fd}`;
  const result = tryCall('linkat', AT_FDCWD, path, dirfd, cString(name), AT_SYMLINK_FOLLOW);
  checked('linkat', result, name);
}

export function mkdirat(dirfd: number, name: Name, mode: number): void {
  checked('mkdirat', tryCall('mkdirat', dirfd, cString(name), mode), name);
}

export function mkfifoat(dirfd: number, name: Name, mode: number): void {
  checked('mkfifoat', tryCall('mknodat', dirfd, cString(name), S_IFIFO | mode, 0), name);
}

export function linkat(from: number, oldName: Name, to: number, newName: Name): void {
  const name = cString(newName);
  const old = oldName === newName ? name : cString(oldName);
  checked('linkat', tryCall('linkat', from, old, to, name, 0), newName);
}

export function symlinkat(target: Name, dirfd: number, name: Name): void {
  checked('symlinkat', tryCall('symlinkat', cString(target), dirfd, cString(name)), name);
}

/** An empty `name` reads the link that `dirfd` itself is (O_PATH). */
export function readlinkat(dirfd: number, name: Name): Buffer {
  const target = Buffer.allocUnsafe(PATH_MAX);
  const path = cString(name);
  const length = checked('readlinkat', tryCall('readlinkat', dirfd, path, target, PATH_MAX), name);
  return target.subarray(0, length);
}

export function renameat(from: number, oldName: Name, to: number, newName: Name): void {
  const [old, name] = [cString(oldName), cString(newName)];
  checked('renameat', tryCall('renameat2', from, old, to, name, 0), newName);
}

const RENAME_WHITEOUT = 4;

/** Leaves overlayfs's mark of a removed file where the name was. */
export function leaveWhiteout(from: number, oldName: Name, to: number, newName: Name): void {
  const [old, name] = [cString(oldName), cString(newName)];
  const result = tryCall('renameat2', from, old, to, name, RENAME_WHITEOUT);
  checked('renameat', result, newName);
}

export function unlinkat(
  dirfd: number,
  name: Name,
  options: { readonly directory?: boolean } = {},
): void {
  const flags = options.directory === true ? AT_REMOVEDIR : 0;
  checked('unlinkat', tryCall('unlinkat', dirfd, cString(name), flags), name);
}

export function lchownat(dirfd: number, name: Name, uid: number, gid: number): void {
  const path = cString(name);
  checked('fchownat', tryCall('fchownat', dirfd, path, uid, gid, AT_SYMLINK_NOFOLLOW), name);
}

/** Nanoseconds since 1970; Node's own calls round them. */
export interface FileTimes {
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
}

export function setTimes(fd: number, times: FileTimes, name?: Name): void {
  const spec = new BigInt64Array(4);
  writeTimespec(spec, 0, times.atimeNs);
  writeTimespec(spec, 2, times.mtimeNs);
  const path = name === undefined ? null : cString(name);
  const flags = name === undefined ? 0 : AT_SYMLINK_NOFOLLOW;
  checked('utimensat', tryCall('utimensat', fd, path, spec, flags), name);
}

/** By the clock that the kernel gives to files that change. @param fd O_PATH will do */
export function setTimesNow(fd: number): void {
  checked('utimensat', tryCall('utimensat', AT_FDCWD, `/proc/self/fd/${fd}`, null, 0));
}

/** struct timespec {time_t, long}, both 64 bits wide; nanoseconds are never negative. */
export function writeTimespec(spec: BigInt64Array, at: number, nanoseconds: bigint): void {
  const second = 1_000_000_000n;
  const part = ((nanoseconds % second) + second) % second;
  spec[at] = (nanoseconds - part) / second;
  spec[at + 1] = part;
}

const SEEK_SET = 0;

/** struct linux_dirent64: two words of 64 bits, then these. */
const RECORD_LENGTH = 16;
const TYPE = 18;
const NAME = 19;
const DT_DIR = 4;
const DT_REG = 8;

const DOT = 0x2e;

const PIECE = 32 * 1024;

export interface DirectoryEntry {
  readonly name: Buffer;
  /** As the directory lists it; some file systems know neither, and the entry may change. */
  readonly isDirectory: boolean;
  readonly isFile: boolean;
}

export class DirectoryReader {
  readonly #fd: number;
  readonly #piece = Buffer.allocUnsafe(PIECE);

  constructor(fd: number) {
    this.#fd = fd;
  }

  next(): DirectoryEntry[] | undefined {
    const piece = this.#piece;
    const length = readPiece(this.#fd, piece);
    if (length === 0) return undefined;
    const entries: DirectoryEntry[] = [];
    for (let at = 0; at < length; at += piece.readUInt16LE(at + RECORD_LENGTH)) {
      const name = Buffer.from(piece.subarray(at + NAME, piece.indexOf(0, at + NAME)));
      const dots = name.length <= 2 && name.every((byte) => byte === DOT);
      const type = piece[at + TYPE];
      if (!dots) entries.push({ name, isDirectory: type === DT_DIR, isFile: type === DT_REG });
    }
    return entries;
  }

  *[Symbol.iterator](): Generator<DirectoryEntry, void, undefined> {
    for (let some = this.next(); some !== undefined; some = this.next()) yield* some;
  }

  rewind(): void {
    checked('lseek', tryCall('lseek', this.#fd, 0, SEEK_SET));
  }
}

function readPiece(directory: number, piece: Buffer): number {
  const read = () => checked('getdents64', tryCall('getdents64', directory, piece, piece.length));
  return unlessErrno(['ENOENT'], read) ?? 0;
}

/**
 * Opens `path` as a process whose root is the open directory `root`: links are followed, and none leads out.
 * Undefined if it does not exist.
 */
export function openInTree(root: number, path: Name, flags: number) {
  // O_NONBLOCK: a fifo must not block kiln. With O_PATH nothing is opened, and the kernel refuses the flag.
  const unblocked = (flags & O_PATH) === 0 ? flags | constants.O_NONBLOCK : flags;
  const how = { flags: unblocked, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
  return unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO'], () =>
    closing(openat2(root, path, how)),
  );
}

/** @param flags O_DIRECTORY where only a directory counts */
export function existsInTree(root: number, path: Name, flags = 0): boolean {
  using found = openInTree(root, path, O_PATH | flags);
  return found !== undefined;
}
