/**
 * Limits what sandboxes write to the host's disk, where not every file system has quotas: a thread watches the
 * disk and kills what writes too much, and a seccomp profile lacks fallocate(2)
 * (src/sandbox/seccomp/variants.ts), the only call that takes space faster than memory can be copied.
 */
import { type StatsFs, statfsSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import { unlessErrno } from '../calls/libc.ts';
import { sizeInWords } from '../calls/system-error.ts';
import { startOf } from '../process/process.ts';
import { programPath } from './paths.ts';

/** Bytes of a disk that stay free; of a small disk a share. */
const RESERVE_BYTES = 2 * 2 ** 30;
const RESERVE_SHARE = 0.05;

/** One file for this many bytes: the ratio by which mke2fs makes inodes. */
const BYTES_PER_FILE = 16 * 1024;

export const DEFAULT_DISK = 16 * 2 ** 30;

/** @param more bytes that are about to be written */
export function isLow(
  { bavail, blocks, bsize, files, ffree }: StatsFs,
  reserve: WatchJob['reserve'],
  more = 0,
): boolean {
  const kept = Math.min(reserve.bytes, blocks * bsize * reserve.share);
  // Some file systems make inodes as they are needed, and count none.
  return bavail * bsize - more < kept || (files > 0 && ffree < files * reserve.share);
}

/** Before kiln itself writes so many bytes for a user. @throws KilnError E_DISK_LOW */
export function refuseLowDisk(path: string, bytes: number): void {
  const reserve = { bytes: RESERVE_BYTES, share: RESERVE_SHARE };
  if (isLow(statfsSync(path), reserve, bytes)) throw diskError('low', path);
}

export interface DiskBound {
  readonly tree: string;
  readonly bytes: number;
  readonly entries?: number;
  readonly who: string;
  readonly hint: string;
}

export interface WatchJob {
  readonly path: string;
  readonly reserve: { readonly bytes: number; readonly share: number };
  readonly bound?: { readonly tree: string; readonly bytes: number; readonly entries: number };
}

export type WatchRequest = { readonly victim: Victim } | 'finish' | 'end';

export type DiskVerdict = 'ready' | 'fine' | 'low' | 'bytes' | 'entries' | 'deep';

export class DiskWatch implements Disposable {
  readonly #path: string;
  readonly #bound: DiskBound | undefined;
  readonly #thread: Worker;
  readonly #abort = new AbortController();
  #victim: Victim | undefined;
  readonly #ready = deferred<void>();
  readonly #finished = deferred<void>();

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
    this.#thread = new Worker(programPath('watch-disk'), {
      workerData: job,
      // Otherwise Node would close descriptor numbers at the thread's end that others have by then.
      trackUnmanagedFds: false,
    });
    this.#thread.on('message', this.#answered).on('error', this.#broke).unref();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  ready(): Promise<void> {
    return this.#referenced(this.#ready.promise);
  }

  /** As soon as a bound is exceeded. The process is a sandbox's init: the sandbox dies with it. */
  kills(pid: number): void {
    const victim = { pid, start: startOf(pid) };
    this.#victim = victim;
    this.#ask({ victim });
  }

  /**
   * Whether it is the watch that killed, asked of a sandbox that has ended: what the thread said before may not have
   * been heard. @throws KilnError E_DISK, E_DISK_LOW, E_TREE_DEPTH
   */
  async throwIfKilled(): Promise<void> {
    // Between two turns of the event loop it hears everything that was said before the first.
    await setImmediate();
    await setImmediate();
    this.signal.throwIfAborted();
  }

  async finish(): Promise<void> {
    this.signal.throwIfAborted();
    this.#ask('finish');
    await this.#referenced(this.#finished.promise);
  }

  async #referenced(answer: Promise<void>): Promise<void> {
    this.#thread.ref();
    try {
      await answer;
    } finally {
      this.#thread.unref();
    }
  }

  #ask(request: WatchRequest): void {
    this.#thread.postMessage(request);
  }

  readonly #answered = (verdict: DiskVerdict): void => {
    if (verdict === 'ready') this.#ready.resolve();
    else if (verdict === 'fine') this.#finished.resolve();
    else this.#fail(diskError(verdict, this.#path, this.#bound));
  };

  /** If the watch fails, writing must not go on. */
  readonly #broke = (cause: unknown): void => {
    const what = `the disk that ${this.#path} lies on cannot be watched`;
    const hint = 'does the path still exist? Try again';
    this.#fail(new KilnError('E_DISK_WATCH', what, { cause, hint }));
  };

  #fail(error: KilnError): void {
    killVictim(this.#victim);
    if (!this.signal.aborted) this.#abort.abort(error);
    this.#ready.reject(error);
    this.#finished.reject(error);
  }

  [Symbol.dispose](): void {
    // What it watched may be moved away before the thread has ended.
    this.#victim = undefined;
    this.#ask('end');
  }
}

function entriesOf({ bytes, entries = filesFor(bytes) }: DiskBound): number {
  return entries;
}

export function filesFor(bytes: number): number {
  return Math.ceil(bytes / BYTES_PER_FILE);
}

/** What so many files count as, however little is in them. */
export function bytesFor(files: number): number {
  return files * BYTES_PER_FILE;
}

const NO_BOUND: DiskBound = { tree: '', bytes: 0, who: 'a sandbox', hint: '' };

function diskError(
  verdict: Exclude<DiskVerdict, 'ready' | 'fine'>,
  path: string,
  bound: DiskBound = NO_BOUND,
): KilnError {
  const { who, bytes, hint } = bound;
  const disk = `the disk that ${path} lies on`;
  switch (verdict) {
    case 'bytes':
      return diskExceededError(who, `more than ${sizeInWords(bytes)}`, hint);
    case 'entries':
      return diskExceededError(who, `more than ${entriesOf(bound)} files`, hint);
    case 'deep':
      return new KilnError('E_TREE_DEPTH', `${who} nested folders too deep`, {
        hint: 'what wrote them is at fault',
      });
    case 'low':
      return new KilnError('E_DISK_LOW', `${disk} is nearly full: kiln stopped what filled it`, {
        hint: '`kiln gc --max-age 1d` gives room back, root’s `kiln gc --max-size` as well; `kiln-mock --clean` removes a root',
      });
  }
}

export function diskExceededError(who: string, what: string, hint: string): KilnError {
  return new KilnError('E_DISK', `${who} put ${what} on the disk`, { hint });
}

/** Counts what is written against a number of bytes. */
export class DiskRoom {
  readonly bytes: number;
  readonly #told: { readonly who: string; readonly hint: string };
  #used = 0;

  constructor(bytes: number, told: { readonly who: string; readonly hint: string }) {
    this.bytes = bytes;
    this.#told = told;
  }

  /** @throws KilnError E_DISK */
  take(bytes: number): void {
    this.#used += bytes;
    if (this.#used <= this.bytes) return;
    throw diskExceededError(
      this.#told.who,
      `more than ${sizeInWords(this.bytes)}`,
      this.#told.hint,
    );
  }
}

/** Full, nearly full, or over a bound. Then unfinished work is removed at once. */
export function isDiskShort(error: unknown): boolean {
  const codes: readonly ErrorCode[] = ['E_DISK', 'E_DISK_LOW', 'E_DISK_FULL', 'E_TREE_DEPTH'];
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof KilnError && codes.includes(cause.code)) return true;
  }
  return false;
}

export interface Victim {
  readonly pid: number;
  readonly start: string | undefined;
}

/** Unless it is gone: another process may have its pid by then. */
export function killVictim(victim: Victim | undefined): void {
  if (victim?.start === undefined || startOf(victim.pid) !== victim.start) return;
  unlessErrno(['ESRCH'], () => process.kill(victim.pid, 'SIGKILL'));
}
