/** Unpacking packages: the parent's side. Confined children write, in parallel. */
import { statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { rebuildError } from '../confine/flat-error.ts';
import { mergeIterations } from '../confine/merge.ts';
import { runConfined } from '../confine/run.ts';
import { type ConfinedLimits, defaultLimits } from '../confine/task.ts';
import { KilnError } from '../errors.ts';
import { Delivery } from './delivery.ts';
import { aboutFile } from './feed.ts';
import type { SignaturePolicy } from './inspect.ts';
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
  readonly policy: SignaturePolicy;
  /** Bytes one package may unpack to; default 64 GiB. */
  readonly unpackedSize?: number;
  /** Ids for owners' names. Without, and for names that are not in it, files belong to root. */
  readonly owners?: OwnerMap;
  /** Children at a time; default one a core. */
  readonly concurrency?: number;
  readonly limits?: Partial<ConfinedLimits>;
  /** A program that calls serveConfined with its own tasks; default src/confined.ts. */
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
  /** The package as `fromWire` takes it, which has found nothing wrong with it. */
  readonly wire: object;
  /** What was left out (devices, fifos), as sentences. */
  readonly warnings: readonly string[];
}

/** What came of one job; a failed one has left nothing behind unless its child was killed. */
export type UnpackResult = Unpacked | { readonly job: UnpackJob; readonly error: KilnError };

/** More of them wait for memory and disk, not for processors. */
const MOST_CHILDREN = 64;

/** Packages on their way to whoever is free next. */
const AHEAD = 8;

/** One child may have to unpack all packages of a call: so many of them get the time of a child. */
const JOBS_PER_LIMIT = 500;

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
  const { concurrency = availableParallelism() } = options;
  const children = Math.min(Math.max(concurrency, 1), MOST_CHILDREN, jobs.length);
  if (children === 0) return;
  using delivery = new Delivery(largestFirst(jobs), options.ready, children + AHEAD);
  yield* mergeIterations(
    (signal) => [
      delivery.deliver(signal),
      ...Array.from({ length: children }, () => unpackDelivered(delivery, options, signal)),
    ],
    options.signal,
  );
  delivery.assertDone();
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

/** One child, and what it does with the packages that come to it. */
async function* unpackDelivered(
  delivery: Delivery,
  options: UnpackOptions,
  signal: AbortSignal,
): AsyncGenerator<UnpackResult, void, undefined> {
  const { jobs } = delivery;
  const limits: UnpackLimits = { unpackedSize: options.unpackedSize ?? DEFAULT_UNPACKED_SIZE };
  const input: UnpackTaskInput = {
    into: jobs.map((job) => job.into),
    keys: options.keys ?? [],
    policy: options.policy,
    limits,
    ...(options.owners === undefined ? {} : { owners: options.owners }),
  };
  // It may have to unpack all of them.
  const cpuSeconds = defaultLimits.cpuSeconds * Math.ceil(jobs.length / JOBS_PER_LIMIT);
  const results = runConfined<UnpackResult | undefined>({
    task: 'rpm-unpack',
    input,
    handout: delivery.handout,
    signal,
    destination: options.root,
    limits: { cpuSeconds, ...options.limits },
    ...(options.entry === undefined ? {} : { entry: options.entry }),
    validate: (value) => {
      const message = value as Record<string, unknown>;
      const job = delivery.jobOf(message.index);
      if (message.progress !== undefined) {
        if (!Number.isSafeInteger(message.progress)) throw new TypeError('it is no number');
        options.onProgress?.(job, message.progress as number);
        return undefined;
      }
      delivery.answered(message.index);
      if (message.error !== undefined) {
        return { job, error: aboutFile(job.file, rebuildError(message.error)) };
      }
      const warnings = (message.warnings as unknown[]).map(String);
      const wire = message.package as object;
      return { job, package: fromWire(wire), wire, warnings };
    },
  });
  for await (const result of results) if (result !== undefined) yield result;
  delivery.childEnded();
}
