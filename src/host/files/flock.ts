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

/** A lock may lie where others can put links and fifos: they are neither followed nor waited for. */
const LOCK_FILE = constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Waiting asks again after this many milliseconds, growing up to the second number. */
const POLL_FIRST = 2;
const POLL_LAST = 50;

interface LockOptions {
  /** Several holders at once, as long as none is exclusive. */
  readonly shared?: boolean;
  /** The file must be there already: it is not made. */
  readonly existing?: boolean;
  /** Gives up waiting (never the lock itself) when aborted. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A held lock. The kernel releases it when this process dies, however it dies; the file stays.
 * Its descriptor is close-on-exec, so that no child keeps the lock.
 */
export interface HeldLock extends AsyncDisposable {
  /** Whoever has the lock: it can be given to another process, instead of being released. */
  readonly descriptor: number;
  release(): Promise<void>;
}

/**
 * Locks the file `path` (made if missing; only its owner can open it) against other processes and other callers in
 * this one. A lock file may be deleted by its holder: whoever waited then locks the new file.
 * Who works may hold it for as long as the work takes; one that is stopped is waited for as
 * {@link waitFor} says.
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
        // The clock runs while it is stopped; where the kernel does not tell who it is, it may work.
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
    // It may have been given in the same moment.
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

/** Like {@link acquireLock}, but undefined at once if somebody else holds it. */
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

/** A lock that is held by `fd`, such as one that another process has given away. */
export function heldLock(fd: number): HeldLock {
  let held = true;
  const release = async () => {
    if (!held) return;
    held = false;
    closeSync(fd);
  };
  return { descriptor: fd, release, [Symbol.asyncDispose]: release };
}

/** A directory where a lock's file should be can be locked as well, and hurts nobody. */
function openLock(path: string, existing: boolean): number {
  try {
    return openSync(path, LOCK_FILE | (existing ? 0 : constants.O_CREAT), 0o600);
  } catch (error) {
    if (!hasErrno(error, 'EISDIR')) throw error;
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  }
}

/**
 * Locks the file or directory that `fd` has open, until all copies of the descriptor are closed.
 * False if somebody else holds the lock.
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
 * Who can open a file can lock it, and keep everybody else waiting. Only of our own, and of no file that
 * somebody may have linked to this name.
 */
function closeToOthers(fd: number): void {
  const { mode, uid, nlink } = fstatSync(fd);
  if ((mode & 0o077) === 0 || uid !== process.geteuid?.() || nlink !== 1) return;
  fchmodSync(fd, mode & 0o700);
}

/** Whether `path` names the very file that `fd` has open: a lock on a deleted file guards nothing. */
function isStill(fd: number, path: string): boolean {
  const mine = fstatSync(fd, { bigint: true });
  const named = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return named !== undefined && mine.ino === named.ino && mine.dev === named.dev;
}

/** False if somebody else holds the lock. */
function lockNow(fd: number, path: string, shared: boolean): boolean {
  const result = tryCall('flock', fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
  if (result === -os.errno.EAGAIN || result === -os.errno.EINTR) return false;
  return checked('flock', result, path) === 0;
}

/**
 * A process that holds a lock of flock(2) on the file, by /proc/locks (proc_locks(5)); undefined where
 * nobody does, or the kernel does not tell: of a process in another pid namespace, or of a file system
 * whose device numbers are not those of stat(2).
 */
export function lockHolder(path: string): number | undefined {
  const file = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (file === undefined) return undefined;
  // 1: FLOCK  ADVISORY  WRITE 708 00:13:16478 0 EOF; who waits has `->` after the number. Here nobody
  // waits in the kernel.
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
