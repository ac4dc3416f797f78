/** Unpacking packages: the parent's side. Confined children write, in parallel. */
import { statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import { runQueue } from '../../host/confine/queue.ts';
import { defaultLimits } from '../../host/confine/task.ts';
import { foundAt } from '../../host/files/held.ts';
import type { SignaturePolicy } from './inspect.ts';
import { openFile, type RpmPackage, takePackage } from './package.ts';
import { MORE_DISK } from './payload/plan.ts';
import type { UnpackTaskInput } from './unpack-task.ts';

export interface UnpackJob {
  readonly file: string;
  readonly into: string;
}

export interface UnpackOptions {
  /**
   * An existing directory that the children see as `/`. A child that a package has taken over can
   * do to everything below it whatever root can: it should hold nothing else that matters.
   */
  readonly root: string;
  readonly keys?: readonly string[];
  readonly policy: SignaturePolicy;
  /** Bytes one package may unpack to; default 64 GiB. */
  readonly unpackedSize?: number;
  /** Says how it may unpack to more; by a recipe's `disk` unless given. */
  readonly moreBy?: string;
  readonly concurrency?: number;
  readonly entry?: string;
  readonly signal?: AbortSignal | undefined;
  /** No child sees a package before this is fulfilled for it. Asked for one after the other, the largest file first. */
  readonly ready?: ((job: UnpackJob) => Promise<void>) | undefined;
  readonly onProgress?: (job: UnpackJob, bytes: number) => void;
}

/** A package that is unpacked, whole and verified. Not synced to disk. */
export interface Unpacked {
  readonly job: UnpackJob;
  readonly package: RpmPackage;
  readonly warnings: readonly string[];
}

/** A failed job has left nothing behind unless its child was killed. */
export type UnpackResult = Unpacked | { readonly job: UnpackJob; readonly error: KilnError };

/** More of them wait for memory and disk, not for processors. */
const MOST_CHILDREN = 64;

/** Packages queued at each child, so that it never waits for work. */
const AHEAD = 1;

/** One child may have to unpack all packages of a call: its time limit grows with each so many. */
const JOBS_PER_LIMIT = 500;

const DEFAULT_UNPACKED_SIZE = 64 * 1024 * 1024 * 1024;

/**
 * Verifies and unpacks packages, yielding each as it is done. A package that is refused or broken is a result.
 * Files are root's, with the header's modes, set-id bits, times, capabilities and hard links; every file's digest
 * is checked as it is written. Ghosts, devices, fifos and sockets are not made. Needs root.
 * @throws KilnError E_KEYRING, E_CONFINE_…; the signal's reason. `root` is then in no defined state.
 */
export async function* unpackRpms(
  jobs: readonly UnpackJob[],
  options: UnpackOptions,
): AsyncGenerator<UnpackResult, void, undefined> {
  if (process.geteuid?.() !== 0) {
    throw new KilnError('E_NOT_ROOT', 'only root can unpack packages with their owners', {
      hint: 'run it as root',
    });
  }
  for (const { into } of jobs) checkInto(into);
  const { concurrency = availableParallelism() } = options;
  const children = Math.min(Math.max(concurrency, 1), MOST_CHILDREN, jobs.length);
  if (children === 0) return;
  const { keys = [], policy, entry, unpackedSize = DEFAULT_UNPACKED_SIZE } = options;
  const input: UnpackTaskInput = {
    keys,
    policy,
    unpackedSize,
    moreBy: options.moreBy ?? MORE_DISK,
  };
  const cpuSeconds = defaultLimits.cpuSeconds * Math.ceil(jobs.length / JOBS_PER_LIMIT);
  yield* runQueue<UnpackJob, UnpackResult>({
    task: 'rpm-unpack',
    input,
    children,
    ahead: AHEAD,
    signal: options.signal,
    works: readyJobs(largestFirst(jobs), options.ready),
    destination: options.root,
    limits: { cpuSeconds },
    ...(entry && { entry }),
    name: ({ file }) => file,
    open: ({ file, into }) => ({ fds: [openFile(file)], input: into }),
    onMessage: (bytes, job) => {
      if (!Number.isSafeInteger(bytes)) throw new TypeError('it is not a number');
      options.onProgress?.(job, bytes as number);
    },
    take: (value, job) => {
      const { warnings, package: unpacked } = value as { warnings: unknown[]; package: unknown };
      return { job, package: takePackage(unpacked), warnings: warnings.map(String) };
    },
    fail: (error, job) => ({
      job,
      error: error.code.startsWith('E_CONFINE_') ? leftoversError(error) : error,
    }),
  });
}

/** A child that died could take nothing back. */
function leftoversError({ code, message, cause, details }: KilnError): KilnError {
  const hint = 'the file is probably broken or hostile; what was written of it until then is left';
  return new KilnError(code, message, { cause, details, hint });
}

async function* readyJobs(
  jobs: readonly UnpackJob[],
  ready: UnpackOptions['ready'],
): AsyncGenerator<UnpackJob, void, undefined> {
  for (const job of jobs) {
    await ready?.(job);
    yield job;
  }
}

function checkInto(into: string): void {
  const parts = into.split('/');
  if (into === '.' || parts.every((part) => part !== '' && part !== '.' && part !== '..')) return;
  throw new TypeError(`not a relative path: ${into}`);
}

function largestFirst(jobs: readonly UnpackJob[]): UnpackJob[] {
  const found = (file: string) => statSync(foundAt(resolve(file)), { throwIfNoEntry: false });
  const sizeOf = (file: string) => found(file)?.size ?? 0;
  const sized = jobs.map((job) => ({ job, size: sizeOf(job.file) }));
  return sized.sort((a, b) => b.size - a.size).map(({ job }) => job);
}
