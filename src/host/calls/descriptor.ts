/** Calls on open descriptors that Node does not offer, or not for descriptors that it did not open. */
import { close, closeSync, constants, fchownSync, open } from 'node:fs';
import { promisify } from 'node:util';
import { checked, tryCall, tryCallInThread } from './system-call.ts';

/** For `using`: closes a descriptor at the end of the block. */
export function closing(fd: number): Disposable {
  return { [Symbol.dispose]: () => closeSync(fd) };
}

/** Closes a descriptor that Node did not open. Errors are ignored: no caller could act on one. */
export function closeDescriptor(fd: number): void {
  tryCall('close', fd);
}

/* Pipes made outside Node's child_process. Sources: pipe(2), fcntl(2). */

const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
/** The default of /proc/sys/fs/pipe-max-size: what an unprivileged user may ask for, too. */
const PIPE_BYTES = 1 << 20;

/** Both ends of a pipe. The caller closes them. */
export interface Pipe {
  readonly read: number;
  readonly write: number;
}

/**
 * A close-on-exec pipe of 1 MiB whose inode belongs to `owner`: only its owner can reopen it
 * through /proc/self/fd or /dev/stderr.
 */
export function createPipe(owner: number): Pipe {
  const pair = new Int32Array(2);
  checked('pipe2', tryCall('pipe2', pair, O_CLOEXEC));
  const [read, write] = pair as unknown as [number, number];
  growPipe(write);
  fchownSync(write, owner, owner);
  return { read, write };
}

/** Gives a pipe room for 1 MiB; over the user's limit it keeps what it has, 64 KiB at first. */
export function growPipe(fd: number): void {
  tryCall('fcntl', fd, F_SETPIPE_SZ, PIPE_BYTES);
}

/** The first descriptor that is no stdio, and close_range(2)'s last. */
const FIRST = 3;
const LAST = 0xffff_ffff;
/** CLOSE_RANGE_CLOEXEC of linux/close_range.h (Linux 5.11): close the descriptors on exec. */
const CLOSE_ON_EXEC = 4;

/**
 * Marks every descriptor above stdio close-on-exec, including those that kiln's caller left open. Programs that
 * this process starts then get only what they are given. The descriptors stay open in this process, because a
 * caller may name one (`/dev/fd/63`). Takes microseconds.
 * @throws SyscallError
 */
export function keepDescriptors(): void {
  checked('close_range', tryCall('close_range', FIRST, LAST, CLOSE_ON_EXEC));
}

const openFile = promisify(open);
const closeFile = promisify(close);

/**
 * Flushes the file system of `path` to the disk without blocking this thread.
 * @throws SyscallError, of syncfs(2).
 */
export async function syncFileSystem(path: string): Promise<void> {
  const fd = await openFile(path, constants.O_RDONLY);
  try {
    checked('syncfs', await tryCallInThread('syncfs', fd), path);
  } finally {
    await closeFile(fd);
  }
}
