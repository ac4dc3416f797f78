/**
 * Calls on open descriptors, for what is done for each of many files: Node's own take twice as long.
 * Sources: pread(2), pwrite(2), close(2).
 */
import { checked, libc } from './libc.ts';

const call = {
  pread: libc.func('long pread(int fd, void *into, size_t length, int64_t offset)'),
  pwrite: libc.func('long pwrite(int fd, const void *from, size_t length, int64_t offset)'),
  close: libc.func('int close(int fd)'),
};

/** Closes a descriptor that Node did not open. An error there helps nobody: ignored. */
export function closeDescriptor(fd: number): void {
  call.close(fd);
}

/**
 * Closes a file that was written: file systems over a network say only then what they could not keep.
 * It is closed in any case. @throws SyscallError
 */
export function closeWritten(fd: number): void {
  checked('close', call.close(fd));
}

/**
 * Reads the first `length` bytes of a file; returns how many there were, fewer only at its end.
 * @throws SyscallError
 */
export function readStart(fd: number, into: Buffer, length: number): number {
  let done = 0;
  while (done < length) {
    const rest = done === 0 ? into : into.subarray(done);
    const got = checked('pread', Number(call.pread(fd, rest, length - done, done)));
    if (got === 0) break;
    done += got;
  }
  return done;
}

/** Writes the first `length` bytes of `from` to the start of a file. @throws SyscallError */
export function writeStart(fd: number, from: Buffer, length: number): void {
  for (let done = 0; done < length; ) {
    const rest = done === 0 ? from : from.subarray(done);
    done += checked('pwrite', Number(call.pwrite(fd, rest, length - done, done)));
  }
}
