/** Pipes made outside Node's child_process. Sources: pipe(2), fcntl(2). */
import { fchownSync } from 'node:fs';
import { checked, tryCall } from './system-call.ts';

const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
/** The default of /proc/sys/fs/pipe-max-size: what an unprivileged user may ask for, too. */
const PIPE_BYTES = 1 << 20;

/** Both ends of a pipe; whoever has them closes them. */
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
