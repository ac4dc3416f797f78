import { hasErrno } from './libc.ts';
import { checked, tryCall } from './system-call.ts';

/** lseek(2); both numbers are the same on every Linux. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** A run of bytes that has (or may have) content; the rest of the file reads as zeros. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/**
 * The parts of the first `size` bytes of an open file that are not holes, in order.
 * A file system that cannot tell reports all as data. The file offset is moved.
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
      // ENXIO: nothing but a hole up to the end of the file, or one that was cut short just now.
      if (hasErrno(error, 'ENXIO')) return;
      if (hasErrno(error, 'EINVAL', 'EOPNOTSUPP')) {
        yield { offset, length: size - offset };
        return;
      }
      throw error;
    }
    // Only a file that changes meanwhile or a lying (FUSE) file system answers so; go forward.
    if (start < offset || end <= start) {
      start = offset;
      end = size;
    }
    yield { offset: start, length: end - start };
    offset = end;
  }
}
