/**
 * What the kernel knows of an open file, faster than Node's `fstat`. Sources: statx(2), futimens(3),
 * statfs(2).
 */
import { cString } from './libc.ts';
import { checked, tryCall } from './system-call.ts';

const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const AT_SYMLINK_NOFOLLOW = 0x100;

/** Words of 32 bits in struct statx of linux/stat.h. */
const WORDS = 64;
const NLINK = 4;
const MODE = 7;
const INODE = 8;
const SIZE = 10;
const BLOCKS = 12;
/** struct statx_timestamp: seconds, 64 bits; nanoseconds, 32 bits; 32 of padding. */
const ATIME = 16;
const MTIME = 28;
const TIMESTAMP = 4;

/** Two struct timespec of time.h, in words of 32 bits: as above, but with nanoseconds of 64. */
const times = new Uint32Array(2 * TIMESTAMP);

/** struct statfs of bits/statfs.h, in words of 64 bits. */
const fileSystem = new BigUint64Array(15);
const FLAGS = 10;
/** ST_VALID and ST_NODEV of linux/statfs.h */
const NO_DEVICES = 0x20n | 0x4n;

/** What the kernel says of a file. Made once and read for many, it costs no more than the call. */
export class FileStatus {
  readonly #words = new Uint32Array(WORDS);

  /** Of an open file, or of the entry `name` of an open directory, a link itself. @throws SyscallError */
  read(fd: number, name: Buffer | string = ''): this {
    const flags = name === '' ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
    const result = tryCall('statx', fd, cString(name), flags, STATX_BASIC_STATS, this.#words);
    checked('statx', result, name);
    return this;
  }

  get isDirectory(): boolean {
    return (this.#words[MODE]! & S_IFMT) === S_IFDIR;
  }

  /** As text. */
  get inode(): string {
    return `${this.#words[INODE]}:${this.#words[INODE + 1]}`;
  }

  get isFile(): boolean {
    return (this.#words[MODE]! & S_IFMT) === S_IFREG;
  }

  /** Permission bits, with setuid, setgid and sticky. */
  get permissions(): number {
    return this.#words[MODE]! & 0o7777;
  }

  get links(): number {
    return this.#words[NLINK]!;
  }

  get size(): number {
    return this.#words[SIZE]! + this.#words[SIZE + 1]! * 2 ** 32;
  }

  /** Of 512 bytes, whatever the file system's own size. */
  get blocks(): number {
    return this.#words[BLOCKS]! + this.#words[BLOCKS + 1]! * 2 ** 32;
  }

  /** Of last modification, whole milliseconds since 1970. */
  get mtimeMs(): number {
    const seconds = this.#words[MTIME]! + (this.#words[MTIME + 1]! | 0) * 2 ** 32;
    return seconds * 1000 + Math.floor(this.#words[MTIME + 2]! / 1e6);
  }

  /** Whether size and time of last change are those of `other`. */
  isUnchangedFrom(other: FileStatus): boolean {
    const [mine, others] = [this.#words, other.#words];
    return (
      mine[SIZE] === others[SIZE] &&
      mine[SIZE + 1] === others[SIZE + 1] &&
      mine[MTIME] === others[MTIME] &&
      mine[MTIME + 1] === others[MTIME + 1] &&
      mine[MTIME + 2] === others[MTIME + 2]
    );
  }

  /** Gives another open file the same times. @throws SyscallError */
  setTimesOf(fd: number): void {
    for (let word = 0; word < TIMESTAMP - 1; word++) {
      times[word] = this.#words[ATIME + word]!;
      times[TIMESTAMP + word] = this.#words[MTIME + word]!;
    }
    checked('futimens', tryCall('utimensat', fd, null, times, 0));
  }
}

/** Whether it is certain that no device can be opened where `fd` is: its mount has MS_NODEV. */
export function isWithoutDevices(fd: number): boolean {
  return (
    tryCall('fstatfs', fd, fileSystem) === 0 && (fileSystem[FLAGS]! & NO_DEVICES) === NO_DEVICES
  );
}
