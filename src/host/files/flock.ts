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

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** A lock may lie in a folder where others can put links and fifos: neither is followed or waited for. */
const LOCK_FILE = constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Between two attempts, ms. */
const POLL_FIRST = 2;
const POLL_LAST = 50;

interface LockOptions {
  readonly shared?: boolean;
  readonly existing?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** Ends with this process; the file stays. Close-on-exec: no child keeps it. */
export interface HeldLock extends AsyncDisposable {
  readonly descriptor: number;
  release(): Promise<void>;
}

/**
 * Locks the file `path`, which is made if it is missing, against everybody, also in this process. A holder may
 * delete the file: those who waited then lock the new one. One that works may keep the lock for any time; one
 * that is stopped is waited for as {@link waitFor} says.
 * @throws SystemError of open(2); the signal's reason when aborted; KilnError E_LOCKED
 */
export async function acquireLock(path: string, options: LockOptions = {}): Promise<HeldLock> {
  options.signal?.throwIfAborted();
  const free = await tryLock(path, options);
  if (free !== undefined) return free;
  const given = new AbortController();
  const signal =
    options.signal === undefined ? given.signal : AbortSignal.any([given.signal, options.signal]);
  const acquired = awaitedLater(pollLock(path, { ...options, signal }, Number.POSITIVE_INFINITY));
  let holder: Awaited | undefined;
  let since = performance.now();
  let said: (() => void) | undefined;
  const began = performance.now();
  try {
    const lock = await waitFor(acquired, {
      whom: () => holder ?? holderOf(path),
      code: 'E_LOCKED',
      hint: 'look what it does, and end it if it hangs',
      since: () => {
        holder = holderOf(path);
        // The clock runs only while the holder is stopped; one that the kernel does not name may be working.
        const works = holder.pid === undefined || !isStopped(holder.pid);
        if (works) {
          since = performance.now();
          if (since - began > sayAfter()) said ??= sayWaiting(holder, 'which works');
        }
        return since;
      },
    });
    return lock!;
  } catch (error) {
    given.abort(error);
    acquired.then(
      (lock) => lock?.release(),
      () => undefined,
    );
    throw error;
  } finally {
    said?.();
  }
}

/**
 * Undefined if others have it at the time `end`, and when it is tried a second time: a busy host may have let all the
 * time pass before the first. @throws the signal's reason when aborted
 */
async function pollLock(
  path: string,
  options: LockOptions,
  end: number,
): Promise<HeldLock | undefined> {
  const { signal } = options;
  for (let pause = POLL_FIRST; ; pause = Math.min(pause * 2, POLL_LAST)) {
    signal?.throwIfAborted();
    const held = await tryLock(path, options);
    if (held !== undefined || (pause > POLL_FIRST && performance.now() > end)) return held;
    await sleep(pause, undefined, { signal }).catch(() => signal?.throwIfAborted());
  }
}

function holderOf(path: string): Awaited {
  const pid = lockHolder(path);
  if (pid === undefined) return { name: `whoever holds the lock ${path}` };
  return { name: `process ${pid}, which holds the lock ${path}`, pid };
}

/** How long {@link lockUnlessHeld} tries, ms: a process that looks may be held up where processors are few. */
const LOOK = 500;
/** How long who looks itself does so. */
const GLANCE = 5;

/**
 * Locks `path`; undefined if another process keeps it locked. Whoever only looks whether it is locked holds it for a
 * moment, and so does what a killed holder was just starting, until its execve(2): that counts as free.
 */
export async function lockUnlessHeld(
  path: string,
  { patience = LOOK, existing = false } = {},
): Promise<HeldLock | undefined> {
  return await pollLock(path, { existing }, performance.now() + patience);
}

/** What `lock` comes to; undefined where the folder of its file is not there, or goes away meanwhile. */
export async function unlessGone<Held>(lock: Promise<Held>): Promise<Held | undefined> {
  return await lock.catch((error: unknown) => {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  });
}

/** Whether somebody holds a lock now, not only to look as this does, or nobody can tell. */
export async function isLocked(path: string): Promise<boolean> {
  const lock = await lockUnlessHeld(path, { patience: GLANCE }).catch(() => undefined);
  await lock?.release();
  return lock === undefined;
}

export async function tryLock(
  path: string,
  options: { readonly shared?: boolean; readonly existing?: boolean } = {},
): Promise<HeldLock | undefined> {
  const fd = openLock(path, options.existing === true);
  let held = false;
  try {
    const found = fstatSync(fd);
    if (!found.isFile() && !found.isDirectory()) {
      throw new Error(`${path} is not a file that can be locked`);
    }
    closeToOthers(fd);
    held = lockNow(fd, path, options.shared ?? false) && isStill(fd, path);
  } finally {
    if (!held) closeSync(fd);
  }
  return held ? heldLock(fd) : undefined;
}

export function heldLock(fd: number): HeldLock {
  let held = true;
  const release = async () => {
    if (!held) return;
    held = false;
    closeSync(fd);
  };
  return { descriptor: fd, release, [Symbol.asyncDispose]: release };
}

/** A directory in the place of the lock file is locked instead; that is as good. */
function openLock(path: string, existing: boolean): number {
  try {
    return openSync(path, LOCK_FILE | (existing ? 0 : constants.O_CREAT), 0o600);
  } catch (error) {
    if (!hasErrno(error, 'EISDIR')) throw error;
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  }
}

export function tryLockDescriptor(fd: number): boolean {
  return lockNow(fd, `descriptor ${fd}`, false);
}

export async function withLock<Result>(
  path: string,
  task: () => Promise<Result> | Result,
  options: LockOptions = {},
): Promise<Result> {
  await using _held = await acquireLock(path, options);
  return await task();
}

/** Whoever can open a lock file can make everybody else wait. Changes only files of ours without further names. */
function closeToOthers(fd: number): void {
  const { mode, uid, nlink } = fstatSync(fd);
  if ((mode & 0o077) === 0 || uid !== process.geteuid?.() || nlink !== 1) return;
  fchmodSync(fd, mode & 0o700);
}

/** Whether the path still names the file that is open. */
export function isStill(fd: number, path: string): boolean {
  const mine = fstatSync(fd, { bigint: true });
  const named = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return named !== undefined && mine.ino === named.ino && mine.dev === named.dev;
}

function lockNow(fd: number, path: string, shared: boolean): boolean {
  const result = tryCall('flock', fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
  if (result === -os.errno.EAGAIN || result === -os.errno.EINTR) return false;
  return checked('flock', result, path) === 0;
}

/**
 * A holder by /proc/locks (proc_locks(5)). Undefined if there is none or the kernel does not tell, as for a
 * process in another pid namespace, or for a file system whose device numbers differ from stat(2)'s.
 */
export function lockHolder(
  path: string,
  { exclusive = false }: { readonly exclusive?: boolean } = {},
): number | undefined {
  const file = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (file === undefined) return undefined;
  // 1: FLOCK ADVISORY WRITE 708 00:13:16478 0 EOF; kiln never waits in the kernel, which shows `->`.
  const [major, minor] = [Number((file.dev >> 8n) & 0xfffn), Number(file.dev & 0xffn)];
  const rest = Number((file.dev >> 12n) & 0xfff00n);
  const hex = (number: number) => number.toString(16).padStart(2, '0');
  const name = `${hex(major)}:${hex(minor | rest)}:${file.ino}`;
  for (const line of readFileSync('/proc/locks', 'latin1').split('\n')) {
    const [, kind, , how, pid, where] = line.split(/ +/);
    if (kind !== 'FLOCK' || where !== name || !(Number(pid) > 0)) continue;
    if (!exclusive || how === 'WRITE') return Number(pid);
  }
  return undefined;
}
