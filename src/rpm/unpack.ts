/** Unpacking packages: the parent's side. Confined children write, in parallel. */
import { closeSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { rebuildError } from '../confine/flat-error.ts';
import { mergeIterations } from '../confine/merge.ts';
import { runConfined } from '../confine/run.ts';
import type { ConfinedLimits } from '../confine/task.ts';
import { KilnError } from '../errors.ts';
import { aboutFile } from './feed.ts';
import type { SignaturePolicy } from './inspect.ts';
import type { TrustedKey } from './keyring.ts';
import { MAX_FDS, openFile } from './open-files.ts';
import type { RpmPackage } from './package.ts';
import type { UnpackLimits } from './payload/plan.ts';
import type { OwnerMap } from './payload/writer.ts';
import type { UnpackTaskInput } from './unpack-task.ts';
import { fromWire } from './unwire.ts';

export interface UnpackJob {
  /** The .rpm file. */
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
  /** The same keys as `describeKeys` gives them, which are quicker to use. */
  readonly trustedKeys?: readonly TrustedKey[] | null;
  readonly policy: SignaturePolicy;
  /** Bytes one package may unpack to; default 64 GiB. */
  readonly unpackedSize?: number;
  /** Ids for owners' names. Without, and for names that are not in it, files belong to root. */
  readonly owners?: OwnerMap;
  /** Children at a time; default one a core. */
  readonly concurrency?: number;
  readonly limits?: Partial<ConfinedLimits>;
  readonly signal?: AbortSignal | undefined;
  /** Called as each child starts, which gets to work when this is fulfilled; a rejection is thrown. */
  readonly after?: (() => Promise<unknown>) | undefined;
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

const DEFAULT_UNPACKED_SIZE = 64 * 1024 * 1024 * 1024;

/**
 * Verifies and unpacks packages, yielding each as it is done, in no particular order.
 *
 * Files are root's (unless `owners` says otherwise), with the header's modes, set-id bits, times,
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
    throw new KilnError('E_ROOT', 'only root can unpack packages with their owners', {
      hint: 'run it as root',
    });
  }
  for (const { into } of jobs) checkInto(into);
  const shares = share(jobs, options.concurrency ?? availableParallelism());
  yield* mergeIterations(
    (signal) => shares.map((part) => unpackInTurn(part, options, signal)),
    options.signal,
  );
}

function checkInto(into: string): void {
  const parts = into.split('/');
  if (into === '.' || parts.every((part) => part !== '' && part !== '.' && part !== '..')) return;
  throw new TypeError(`not a relative path: ${into}`);
}

/** Shares the jobs out by size, the largest first to whoever has least: all end together. */
function share(jobs: readonly UnpackJob[], count: number): UnpackJob[][] {
  const sized = jobs.map((job) => ({ job, size: fileSize(job.file) }));
  sized.sort((a, b) => b.size - a.size);
  const parts = Array.from({ length: Math.min(count, jobs.length) }, () => ({
    size: 0,
    jobs: [] as UnpackJob[],
  }));
  for (const { job, size } of sized) {
    const part = parts.reduce((least, other) => (other.size < least.size ? other : least));
    part.jobs.push(job);
    // A package costs something however small it is.
    part.size += size + 32 * 1024;
  }
  return parts.map((part) => part.jobs);
}

function fileSize(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}

async function* unpackInTurn(
  jobs: readonly UnpackJob[],
  options: UnpackOptions,
  signal: AbortSignal,
): AsyncGenerator<UnpackResult, void, undefined> {
  for (let at = 0; at < jobs.length; at += MAX_FDS) {
    yield* unpackBatch(jobs.slice(at, at + MAX_FDS), options, signal);
  }
}

async function* unpackBatch(
  jobs: readonly UnpackJob[],
  options: UnpackOptions,
  signal: AbortSignal,
): AsyncGenerator<UnpackResult, void, undefined> {
  const opened: UnpackJob[] = [];
  const fds: number[] = [];
  try {
    for (const job of jobs) {
      try {
        fds.push(openFile(job.file).fd);
        opened.push(job);
      } catch (error) {
        if (!(error instanceof KilnError)) throw error;
        yield { job, error };
      }
    }
    if (fds.length === 0) return;
    const limits: UnpackLimits = { unpackedSize: options.unpackedSize ?? DEFAULT_UNPACKED_SIZE };
    const input: UnpackTaskInput = {
      into: opened.map((job) => job.into),
      keys: options.keys ?? [],
      trustedKeys: options.trustedKeys ?? null,
      policy: options.policy,
      limits,
      ...(options.owners === undefined ? {} : { owners: options.owners }),
    };
    const results = runConfined<UnpackResult | undefined>({
      task: 'rpm-unpack',
      input,
      fds,
      signal,
      destination: options.root,
      after: options.after,
      limits: options.limits ?? {},
      validate: (value) => {
        const message = value as Record<string, unknown>;
        const job = opened[Number(message.index)];
        if (job === undefined) throw new TypeError(`there is no job ${message.index}`);
        if (message.progress !== undefined) {
          options.onProgress?.(job, Number(message.progress));
          return undefined;
        }
        if (message.error !== undefined) {
          return { job, error: aboutFile(job.file, rebuildError(message.error)) };
        }
        const warnings = (message.warnings as unknown[]).map(String);
        return { job, package: fromWire(message.package), warnings };
      },
    });
    for await (const result of results) if (result !== undefined) yield result;
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}
