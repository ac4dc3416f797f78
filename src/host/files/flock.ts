import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { constants as os } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { awaitedLater } from '../../promise.ts';
import { hasErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';
import { isStopped } from '../process/process.ts';
import { type Awaited, sayAfter, sayWaiting, waitFor } from '../process/wait-for.ts';

/** flock(2) operations, from sys/file.h. */
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** A lock may lie in a folder where others can put links and fifos: neither is followed or waited for. */
const LOCK_FILE = constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Milliseconds between two attempts: the pause grows from the first number to the second. */
const POLL_FIRST = 2;
const POLL_LAST = 50;

interface LockOptions {
  /** Several holders at once, as long as none is exclusive. */
  readonly shared?: boolean;
  /** The file must exist already. */
  readonly existing?: boolean;
  /** Aborts the waiting, but never a lock that is held. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A held lock. The kernel releases it when this process dies, however it dies; the file stays.
 * Its descriptor is close-on-exec, so that no child keeps the lock.
 */
export interface HeldLock extends AsyncDisposable {
  /** The lock's descriptor. A lock can be given to another process instead of being released. */
  readonly descriptor: number;
  release(): Promise<void>;
}

/**
 * Locks the file `path` against other processes and other callers in this one. The file is made if it is
 * missing; only its owner can open it. A holder may delete the lock file: those who waited then lock the new
 * file. A holder that works may keep the lock for any time; one that is stopped is waited for as {@link
 * waitFor} says.
 * @throws SystemError of open(2); the signal's reason when aborted; KilnError E_LOCKED
 */
export async function acquireLock(path: string, options: LockOptions = {}): Promise<HeldLock> {
  options.signal?.throwIfAborted();
  const free = await tryLock(path, options);
  if (free !== undefined) return free;
  const given = new AbortController();
  const signal =
    options.signal === undefined ? given.signal : AbortSignal.any([given.signal, options.signal]);
  const acquired = awaitedLater(pollLock(path, { ...options, signal }));
  let holder: Awaited | undefined;
  let since = performance.now();
  let said: (() => void) | undefined;
  const began = performance.now();
  try {
    return await waitFor(acquired, {
      whom: () => holder ?? holderOf(path),
      code: 'E_LOCKED',
      hint: 'look what it does, and end it if it hangs',
      since: () => {
        holder = holderOf(path);
        // The clock runs only while the holder is stopped; a holder that the kernel does not name may be
        // working.
        const works = holder.pid === undefined || !isStopped(holder.pid);
        if (works) {
          since = performance.now();
          if (since - began > sayAfter()) said ??= sayWaiting(holder, 'which works');
        }
        return since;
      },
    });
  } catch (error) {
    given.abort(error);
    // The lock may be granted at the moment of the abort.
    acquired.then(
      (lock) => lock.release(),
      () => undefined,
    );
    throw error;
  } finally {
    said?.();
  }
}

async function pollLock(
  path: string,
  options: LockOptions & { readonly signal: AbortSignal },
): Promise<HeldLock> {
  for (let pause = POLL_FIRST; ; pause = Math.min(pause * 2, POLL_LAST)) {
    options.signal.throwIfAborted();
    const held = await tryLock(path, options);
    if (held !== undefined) return held;
    await sleep(pause, undefined, { signal: options.signal }).catch(() =>
      options.signal.throwIfAborted(),
    );
  }
}

function holderOf(path: string): Awaited {
  const pid = lockHolder(path);
  if (pid === undefined) return { name: `whoever holds the lock ${path}` };
  return { name: `process ${pid}, which holds the lock ${path}`, pid };
}

/** Like {@link acquireLock}, but undefined at once if another process holds the lock. */
export async function tryLock(
  path: string,
  options: Pick<LockOptions, 'shared' | 'existing'> = {},
): Promise<HeldLock | undefined> {
  const fd = openLock(path, options.existing === true);
  let held = false;
  try {
    const found = fstatSync(fd);
    if (!found.isFile() && !found.isDirectory()) {
      throw new Error(`${path} is no file that can be locked`);
    }
    closeToOthers(fd);
    held = lockNow(fd, path, options.shared ?? false) && isStill(fd, path);
  } finally {
    if (!held) closeSync(fd);
  }
  return held ? heldLock(fd) : undefined;
}

/** A lock that `fd` holds, such as one that another process passed on. */
export function heldLock(fd: number): HeldLock {
  let held = true;
  const release = async () => {
    if (!held) return;
    held = false;
    closeSync(fd);
  };
  return { descriptor: fd, release, [Symbol.asyncDispose]: release };
}

/** If a directory lies in the place of the lock file, the directory is locked instead; that is as good. */
function openLock(path: string, existing: boolean): number {
  try {
    return openSync(path, LOCK_FILE | (existing ? 0 : constants.O_CREAT), 0o600);
  } catch (error) {
    if (!hasErrno(error, 'EISDIR')) throw error;
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  }
}

/**
 * Locks the file or directory that `fd` has open, until all copies of the descriptor are closed. False if
 * another holder has the lock.
 */
export function tryLockDescriptor(fd: number): boolean {
  return lockNow(fd, `descriptor ${fd}`, false);
}

/** Runs `task` while holding the lock on `path`. */
export async function withLock<Result>(
  path: string,
  task: () => Promise<Result> | Result,
  options: LockOptions = {},
): Promise<Result> {
  await using _held = await acquireLock(path, options);
  return await task();
}

/**
 * Whoever can open a lock file can lock it and make everybody else wait, so its mode is closed. Only files of
 * ours are changed, and none that has further names.
 */
function closeToOthers(fd: number): void {
  const { mode, uid, nlink } = fstatSync(fd);
  if ((mode & 0o077) === 0 || uid !== process.geteuid?.() || nlink !== 1) return;
  fchmodSync(fd, mode & 0o700);
}

/** Whether `path` still names the file that `fd` has open. A lock on a deleted file guards nothing. */
function isStill(fd: number, path: string): boolean {
  const mine = fstatSync(fd, { bigint: true });
  const named = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return named !== undefined && mine.ino === named.ino && mine.dev === named.dev;
}

/** False if another holder has the lock. */
function lockNow(fd: number, path: string, shared: boolean): boolean {
  const result = tryCall('flock', fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
  if (result === -os.errno.EAGAIN || result === -os.errno.EINTR) return false;
  return checked('flock', result, path) === 0;
}

/**
 * A process that holds a lock of flock(2) on the file, by /proc/locks (proc_locks(5)). Undefined if there is
 * none or the kernel does not tell, as for a process in another pid namespace, or for a file system whose
 * device numbers differ from those of stat(2).
 */
export function lockHolder(path: string): number | undefined {
  const file = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (file === undefined) return undefined;
  // 1: FLOCK  ADVISORY  WRITE 708 00:13:16478 0 EOF; waiters have `->` after the number, but kiln's never wait
  // in the kernel.
  const [major, minor] = [Number((file.dev >> 8n) & 0xfffn), Number(file.dev & 0xffn)];
  const rest = Number((file.dev >> 12n) & 0xfff00n);
  const hex = (number: number) => number.toString(16).padStart(2, '0');
  const name = `${hex(major)}:${hex(minor | rest)}:${file.ino}`;
  for (const line of readFileSync('/proc/locks', 'latin1').split('\n')) {
    const [, kind, , , pid, where] = line.split(/ +/);
    if (kind === 'FLOCK' && where === name && Number(pid) > 0) return Number(pid);
  }
  return undefined;
}
