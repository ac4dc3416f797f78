/**
 * Calls on open descriptors, for what is done for each of many files: Node's own take twice as long.
 * Sources: pread(2), pwrite(2), close(2).
 */
import { checked, tryCall } from './system-call.ts';

/** Closes a descriptor that Node did not open. An error there helps nobody: ignored. */
export function closeDescriptor(fd: number): void {
  tryCall('close', fd);
}

/**
 * Closes a file that was written: file systems over a network say only then what they could not keep.
 * It is closed in any case. @throws SyscallError
 */
export function closeWritten(fd: number): void {
  checked('close', tryCall('close', fd));
}

/**
 * Reads the first `length` bytes of a file; returns how many there were, fewer only at its end.
 * @throws SyscallError
 */
export function readStart(fd: number, into: Buffer, length: number): number {
  let done = 0;
  while (done < length) {
    const rest = done === 0 ? into : into.subarray(done);
    const got = checked('pread', tryCall('pread64', fd, rest, length - done, done));
    if (got === 0) break;
    done += got;
  }
  return done;
}

/** Writes the first `length` bytes of `from` to the start of a file. @throws SyscallError */
export function writeStart(fd: number, from: Buffer, length: number): void {
  for (let done = 0; done < length; ) {
    const rest = done === 0 ? from : from.subarray(done);
    done += checked('pwrite', tryCall('pwrite64', fd, rest, length - done, done));
  }
}
