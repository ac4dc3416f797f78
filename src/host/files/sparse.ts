import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { hasErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';

/** lseek(2); both numbers are the same on every Linux. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** A part of a file that has, or may have, content; the rest reads as zeros. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/**
 * The parts of the first `size` bytes of an open file that are not holes, in order. On a file system that
 * cannot tell, the whole file is data. Moves the file offset.
 */
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
    // Only a file that changes meanwhile, or a file system that lies (FUSE), answers so. Go forward.
    if (start < offset || end <= start) {
      start = offset;
      end = size;
    }
    yield { offset: start, length: end - start };
    offset = end;
  }
}

/** Bytes that {@link copySparse} copies at a time. */
const PIECE = 4 * 1024 * 1024;

/**
 * Copies the content of `from` into the empty file `to`. Holes stay holes, so a file that claims a terabyte
 * takes no more room than it has. Nobody may change `from` meanwhile.
 * @throws SyscallError; the system error of a read or write
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
