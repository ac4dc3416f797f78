import { closeSync, fchownSync, fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { cString, hasErrno, unlessErrno } from './libc.ts';
import { checked, tryCall } from './system-call.ts';

/** An open descriptor that is closed when the block ends: `using file = closing(openSync(path))`. */
export function closing(fd: number): Disposable & { readonly fd: number } {
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}

export function closeDescriptor(fd: number): void {
  tryCall('close', fd);
}

const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
const PIPE_BYTES = 1 << 20;

export interface Pipe {
  readonly read: number;
  readonly write: number;
}

/** A pipe of 1 MiB. Only `owner` can reopen it through /proc/self/fd or /dev/stderr. */
export function createPipe(owner: number): Pipe {
  const pair = new Int32Array(2);
  checked('pipe2', tryCall('pipe2', pair, O_CLOEXEC));
  const [read, write] = pair as unknown as [number, number];
  tryCall('fcntl', write, F_SETPIPE_SZ, PIPE_BYTES);
  fchownSync(write, owner, owner);
  return { read, write };
}

const POLLIN = 1;

/** Whether a descriptor can be read, or is at its end, within so many milliseconds. Blocks. */
export function isReadable(fd: number, milliseconds: number): boolean {
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  entry.writeInt16LE(POLLIN, 4);
  const seconds = Math.floor(milliseconds / 1000);
  const time = BigInt64Array.of(BigInt(seconds), BigInt(milliseconds % 1000) * 1_000_000n);
  return tryCall('ppoll', entry, 1, time, null, 0) !== 0;
}

const FIRST = 3;
const LAST = 0xffff_ffff;
const CLOSE_ON_EXEC = 4;

/**
 * Marks every descriptor above stdio close-on-exec, so that programs get only what they are given. They stay
 * open here, because a caller may name one (`/dev/fd/63`). Takes microseconds.
 */
export function keepDescriptors(): void {
  checked('close_range', tryCall('close_range', FIRST, LAST, CLOSE_ON_EXEC));
}

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h. */
const XATTR_MAX = 65536;

const scratch = Buffer.allocUnsafe(XATTR_MAX);

export function getXattr(fd: number, name: string): Buffer | undefined {
  return read('fgetxattr', fd, name);
}

function read(
  call: 'fgetxattr' | 'getxattr',
  file: number | string,
  name: string,
): Buffer | undefined {
  return unlessErrno(['ENODATA', 'EOPNOTSUPP'], () => {
    const length = tryCall(call, file, cString(name), scratch, scratch.length);
    return Buffer.from(scratch.subarray(0, checked(call, length, name)));
  });
}

export function setXattr(fd: number, name: string, value: Buffer): void {
  checked('fsetxattr', tryCall('fsetxattr', fd, cString(name), value, value.length, 0), name);
}

/** Works for O_PATH, too, by the link in /proc that names the very file, even a symbolic link. */
export function getXattrOf(fd: number, name: string): Buffer | undefined {
  return read('getxattr', `/proc/self/fd/${fd}`, name);
}

export function setXattrOf(fd: number, name: string, value: Buffer): void {
  const path = `/proc/self/fd/${fd}`;
  checked('setxattr', tryCall('setxattr', path, cString(name), value, value.length, 0), name);
}

export function removeXattr(fd: number, name: string): void {
  checked('fremovexattr', tryCall('fremovexattr', fd, cString(name)), name);
}

export function listXattrs(fd: number): string[] {
  const list = () => checked('flistxattr', tryCall('flistxattr', fd, scratch, scratch.length));
  const length = unlessErrno(['EOPNOTSUPP'], list) ?? 0;
  return scratch.toString('utf8', 0, length).split('\0').slice(0, -1);
}

/** lseek(2); both numbers are the same on every Linux. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** The parts of `size` bytes that are not holes; all where the file system cannot tell. Moves the offset. */
export function* dataExtents(fd: number, size: number): Generator<Extent> {
  for (let offset = 0; offset < size; ) {
    let start: number;
    let end: number;
    try {
      start = checked('lseek', tryCall('lseek', fd, offset, SEEK_DATA));
      if (start >= size) return;
      end = Math.min(size, checked('lseek', tryCall('lseek', fd, start, SEEK_HOLE)));
    } catch (error) {
      // ENXIO: only a hole follows, or the file was just cut short.
      if (hasErrno(error, 'ENXIO')) return;
      if (hasErrno(error, 'EINVAL', 'EOPNOTSUPP')) {
        yield { offset, length: size - offset };
        return;
      }
      throw error;
    }
    // A file that changes meanwhile, or a file system that lies (FUSE): go forward.
    if (start < offset || end <= start) {
      start = offset;
      end = size;
    }
    yield { offset: start, length: end - start };
    offset = end;
  }
}

const PIECE = 4 * 1024 * 1024;

/**
 * Copies `from` into the empty file `to`. Holes stay holes, so a file of a terabyte takes no more room
 * than it has. Nobody may change `from` meanwhile.
 */
export function copySparse(from: number, to: number): void {
  const { size } = fstatSync(from);
  const piece = Buffer.allocUnsafe(Math.min(PIECE, Math.max(size, 1)));
  for (const { offset, length } of dataExtents(from, size)) {
    for (let done = 0; done < length; ) {
      const got = readSync(from, piece, 0, Math.min(piece.length, length - done), offset + done);
      if (got === 0) break;
      for (let put = 0; put < got; )
        put += writeSync(to, piece, put, got - put, offset + done + put);
      done += got;
    }
  }
  ftruncateSync(to, size);
}
