/**
 * Limits what sandboxes write to the host's disk, since no quota exists on every file system. Two walls replace
 * it: a thread that watches the disk and kills what writes too much, and a seccomp profile without fallocate(2)
 * (src/sandbox/seccomp/variants.ts), the only call that takes space faster than memory can be copied.
 */
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import { hasErrno } from '../calls/libc.ts';
import { startOf } from '../process/process.ts';

/** Bytes of a disk that watched programs never take; on a small disk, a share of it. */
const RESERVE_BYTES = 2 * 2 ** 30;
const RESERVE_SHARE = 0.05;

/** One file for this many bytes: the ratio by which mke2fs makes inodes. */
const BYTES_PER_FILE = 16 * 1024;

/** What packages and their scripts may write by default, bytes. */
export const DEFAULT_DISK = 16 * 2 ** 30;

/** How much may be written below a folder. */
interface DiskBound {
  /** The folder. */
  readonly tree: string;
  /** Bytes more than the folder has now. */
  readonly bytes: number;
  /** Files and folders more than the folder has now; one for each 16 KiB by default. */
  readonly entries?: number;
  /** Who writes, for the error: `the packages' scripts`. */
  readonly who: string;
  /** What raises the bound, for the error's hint. */
  readonly hint: string;
}

/** What the thread gets when it starts. */
export interface WatchJob {
  readonly path: string;
  readonly reserve: { readonly bytes: number; readonly share: number };
  readonly bound?: { readonly tree: string; readonly bytes: number; readonly entries: number };
}

/** A later message to the thread: the process to kill, or the request to count for the last time. */
export type WatchRequest = { readonly victim: Victim } | { readonly finish: true };

/** The thread's findings. `ready`: it watches. */
export type DiskVerdict = 'ready' | 'fine' | 'low' | 'bytes' | 'entries' | 'deep';

/** Watches a disk while a sandbox writes to it, in a thread of its own, because the main thread may be busy. */
export class DiskWatch implements Disposable {
  readonly #path: string;
  readonly #bound: DiskBound | undefined;
  readonly #thread: Worker;
  readonly #abort = new AbortController();
  #victim: Victim | undefined;
  readonly #ready = deferred<void>();
  readonly #finished = deferred<void>();

  /**
   * @param path a folder of the disk
   * @param bound how much may come to lie in a tree on it
   * @param reserve bytes of the disk that stay free; of a small disk less, a twentieth of it
   */
  constructor(path: string, bound?: DiskBound, reserve = RESERVE_BYTES) {
    this.#path = path;
    this.#bound = bound;
    const job: WatchJob = {
      path,
      reserve: { bytes: reserve, share: RESERVE_SHARE },
      ...(bound && {
        bound: { tree: bound.tree, bytes: bound.bytes, entries: entriesOf(bound) },
      }),
    };
    this.#thread = new Worker(threadEntry(), {
      workerData: job,
      // Otherwise Node would close descriptor numbers at the thread's end that others have by then.
      trackUnmanagedFds: false,
    });
    this.#thread.unref();
    this.#thread.on('message', ({ verdict }: { verdict: DiskVerdict }) => this.#take(verdict));
    this.#thread.on('error', (cause) => {
      // If the watch fails, writing must not go on.
      const what = `the disk that ${path} lies on cannot be watched`;
      this.#fail(
        new KilnError('E_DISK_WATCH', what, {
          cause,
          hint: 'does the path still exist? Try again',
        }),
      );
    });
  }

  /** Aborted with E_DISK, E_DISK_LOW, E_TREE_DEPTH or E_DISK_WATCH. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Waits until the thread watches. @throws the signal's reason */
  async ready(): Promise<void> {
    this.#thread.ref();
    try {
      await this.#ready.promise;
    } finally {
      this.#thread.unref();
    }
  }

  /**
   * Has the thread kill a process as soon as a bound is exceeded. The process is a sandbox's init, and the
   * sandbox dies with it.
   */
  kills(pid: number): void {
    const victim = { pid, start: startOf(pid) };
    this.#victim = victim;
    this.#thread.postMessage({ victim } satisfies WatchRequest);
  }

  /** Ends the watch after the writing has ended, with a last count of the tree. @throws the signal's reason */
  async finish(): Promise<void> {
    this.signal.throwIfAborted();
    this.#thread.ref();
    this.#thread.postMessage({ finish: true } satisfies WatchRequest);
    await this.#finished.promise;
  }

  #take(verdict: DiskVerdict): void {
    if (verdict === 'ready') this.#ready.resolve();
    else if (verdict === 'fine') this.#finished.resolve();
    else this.#fail(diskError(verdict, this.#path, this.#bound));
  }

  #fail(error: KilnError): void {
    // The thread has killed it already, unless the thread itself failed.
    killVictim(this.#victim);
    if (!this.signal.aborted) this.#abort.abort(error);
    this.#ready.reject(error);
    this.#finished.reject(error);
  }

  [Symbol.dispose](): void {
    this.#thread.terminate().catch(() => undefined);
  }
}

function entriesOf({ bytes, entries = filesFor(bytes) }: DiskBound): number {
  return entries;
}

/** How many files so many bytes allow. */
export function filesFor(bytes: number): number {
  return Math.ceil(bytes / BYTES_PER_FILE);
}

/** A watch without a bound never reports one, so this is never shown. */
const NO_BOUND: DiskBound = { tree: '', bytes: 0, who: 'a sandbox', hint: '' };

function diskError(
  verdict: Exclude<DiskVerdict, 'ready' | 'fine'>,
  path: string,
  bound: DiskBound = NO_BOUND,
): KilnError {
  const { who, bytes, hint } = bound;
  switch (verdict) {
    case 'bytes':
      return diskExceeded(who, `more than ${bytes} bytes`, hint);
    case 'entries':
      return diskExceeded(who, `more than ${entriesOf(bound)} files`, hint);
    case 'deep':
      return new KilnError('E_TREE_DEPTH', `${who} nested folders too deep`, {
        hint: 'what wrote them is at fault',
      });
    case 'low':
      return new KilnError(
        'E_DISK_LOW',
        `the disk that ${path} lies on is nearly full: what wrote to it was ended`,
        {
          hint: '`kiln gc --max-size` gives room back, `kiln-mock --clean` removes a root',
        },
      );
  }
}

function threadEntry(): string {
  const here = import.meta.url;
  const path = here.endsWith('.ts') ? '../../programs/watch-disk.ts' : './watch-disk.cjs';
  return fileURLToPath(new URL(path, here));
}

/** The error for what is, or would be, more than its bound. */
export function diskExceeded(who: string, what: string, hint: string): KilnError {
  return new KilnError('E_DISK', `${who} put ${what} on the disk`, { hint });
}

/**
 * Whether the error says that a disk is full, nearly full, or over a bound. Then unfinished work is removed at
 * once.
 */
export function isDiskShort(error: unknown): boolean {
  const codes: readonly ErrorCode[] = ['E_DISK', 'E_DISK_LOW', 'E_DISK_FULL', 'E_TREE_DEPTH'];
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof KilnError && codes.includes(cause.code)) return true;
  }
  return false;
}

/** A process that is killed when a disk fills: the init of what writes to it. */
export interface Victim {
  readonly pid: number;
  /** {@link startOf} of the process; undefined if it was gone already. */
  readonly start: string | undefined;
}

/** Kills the process unless it is gone: another process may have its pid by then. */
export function killVictim(victim: Victim | undefined): void {
  if (victim?.start === undefined || startOf(victim.pid) !== victim.start) return;
  try {
    process.kill(victim.pid, 'SIGKILL');
  } catch (error) {
    if (!hasErrno(error, 'ESRCH')) throw error;
  }
}
