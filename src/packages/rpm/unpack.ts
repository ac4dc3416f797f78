/** Unpacking packages: the parent's side. Confined children write, in parallel. */
import { statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { KilnError } from '../../errors.ts';
import { runQueue } from '../../host/confine/queue.ts';
import { type ConfinedLimits, defaultLimits } from '../../host/confine/task.ts';
import { takePackage } from './check.ts';
import type { SignaturePolicy } from './inspect.ts';
import { openFile, type RpmPackage } from './package.ts';
import type { UnpackLimits } from './payload/plan.ts';
import type { UnpackTaskInput } from './unpack-task.ts';

export interface UnpackJob {
  readonly file: string;
  /**
   * Where its tree goes: a new directory relative to `root`, whose parents exist; or `.` to write
   * into `root` itself, beside what is there.
   */
  readonly into: string;
}

export interface UnpackOptions {
  /**
   * An existing directory that the children see as `/`. A child that a package has taken over can
   * do to everything below it whatever root can: it should hold nothing else that matters.
   */
  readonly root: string;
  /** Armored OpenPGP public keys. */
  readonly keys?: readonly string[];
  readonly policy: SignaturePolicy;
  /** Bytes one package may unpack to; default 64 GiB. */
  readonly unpackedSize?: number;
  /** Children at a time; default one a core. */
  readonly concurrency?: number;
  readonly limits?: Partial<ConfinedLimits>;
  /** A program that calls serveConfined with its own tasks; default src/programs/confined.ts. */
  readonly entry?: string;
  readonly signal?: AbortSignal | undefined;
  /**
   * No child gets to see a package before this is fulfilled for it; a rejection is thrown. Asked for one
   * after the other, the largest file first.
   */
  readonly ready?: ((job: UnpackJob) => Promise<void>) | undefined;
  /** Called as content is written: bytes of this job so far. */
  readonly onProgress?: (job: UnpackJob, bytes: number) => void;
}

/** A package that is unpacked, whole and verified. Not synced to disk. */
export interface Unpacked {
  readonly job: UnpackJob;
  readonly package: RpmPackage;
  /** What was left out (devices, fifos), as sentences. */
  readonly warnings: readonly string[];
}

/** What came of one job; a failed one has left nothing behind unless its child was killed. */
export type UnpackResult = Unpacked | { readonly job: UnpackJob; readonly error: KilnError };

/** More of them wait for memory and disk, not for processors. */
const MOST_CHILDREN = 64;

/** Packages that wait at each child, so that it need not. */
const AHEAD = 1;

/** One child may have to unpack all packages of a call: so many of them get the time of a child. */
const JOBS_PER_LIMIT = 500;

const DEFAULT_UNPACKED_SIZE = 64 * 1024 * 1024 * 1024;

/**
 * Verifies and unpacks packages, yielding each as it is done, in no particular order.
 *
 * Files are root's, with the header's modes, set-id bits, times,
 * capabilities and hard links; every file's digest is checked as it is written. Ghosts, devices,
 * fifos and sockets are not made.
 *
 * A package that is refused or broken is a result. Needs root.
 * @throws KilnError E_KEYRING, E_CONFINE_…; the signal's reason. What is below `root` is then in
 *   no defined state.
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
  const limits: UnpackLimits = { unpackedSize: options.unpackedSize ?? DEFAULT_UNPACKED_SIZE };
  const { keys = [], policy, entry } = options;
  const input: UnpackTaskInput = { keys, policy, limits };
  // One child may have to unpack all of them.
  const cpuSeconds = defaultLimits.cpuSeconds * Math.ceil(jobs.length / JOBS_PER_LIMIT);
  yield* runQueue<UnpackJob, UnpackResult>({
    task: 'rpm-unpack',
    input,
    children,
    ahead: AHEAD,
    signal: options.signal,
    works: readyJobs(largestFirst(jobs), options.ready),
    destination: options.root,
    limits: { cpuSeconds, ...options.limits },
    ...(entry && { entry }),
    name: ({ file }) => file,
    open: ({ file, into }) => ({ fds: [openFile(file).fd], input: into }),
    onMessage: (bytes, job) => {
      if (!Number.isSafeInteger(bytes)) throw new TypeError('it is no number');
      options.onProgress?.(job, bytes as number);
    },
    take: (value, job) => {
      const { warnings, package: unpacked } = value as { warnings: unknown[]; package: unknown };
      return { job, package: takePackage(unpacked), warnings: warnings.map(String) };
    },
    fail: (error, job) => ({ job, error }),
  });
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

/** So that all children end together. */
function largestFirst(jobs: readonly UnpackJob[]): UnpackJob[] {
  const sized = jobs.map((job) => ({ job, size: fileSize(job.file) }));
  return sized.sort((a, b) => b.size - a.size).map(({ job }) => job);
}

function fileSize(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}
