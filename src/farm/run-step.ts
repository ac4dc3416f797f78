/** Does a step on this machine: what a worker does. */
import { join } from 'node:path';
import type { Owner } from '../artifacts/destination.ts';
import { writeText } from '../artifacts/staging.ts';
import { KilnError } from '../errors.ts';
import { plannedRoot, usedRoot } from '../jobs/chain/freshness.ts';
import { type Member, readMembers } from '../jobs/chain/member.ts';
import { resultsRepository } from '../jobs/chain/results.ts';
import { scanMembers } from '../jobs/chain/scan.ts';
import { buildPackage } from '../jobs/rpmbuild/build.ts';
import { type BuildBase, openBase } from '../jobs/rpmbuild/buildroot/base.ts';
import type { BuildHooks, BuildReport } from '../jobs/rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../jobs/rpmbuild/request.ts';
import type { Engine } from '../sandbox/open.ts';
import { stepStatus } from './exit-status.ts';
import { type BuildOutcome, OUTCOME_FILE, type ScanOutcome } from './outcome.ts';
import { ownLock } from './own-image.ts';
import type { KnownBuild, Step } from './step.ts';
import { ownResults } from './step-results.ts';

/** Where the files of a step are on this machine, absolute. */
export interface StepPlaces {
  /** Source packages, in the step's order. */
  readonly sources: readonly string[];
  /** The folder with the chain's results so far, where the step has one. */
  readonly results: string | undefined;
  /** What is made goes there. */
  readonly resultDirectory: string;
  /** A folder of the caller's where the lock of the image can be written. */
  readonly work: string;
  readonly owner: Owner;
  /** What this machine is called in results. */
  readonly worker: string;
}

/**
 * Does a step and writes what came of it to farm.json in the result directory.
 * @returns an exit status of {@link stepStatus}, and the report of a build
 * @throws KilnError E_FARM_IMAGE, E_FARM_STEP, E_RESULTDIR, E_RPM_FORMAT, and what opening the image throws
 */
export async function runStep(
  engine: Engine,
  step: Step,
  brought: StepPlaces,
  hooks: BuildHooks,
): Promise<{ readonly status: number; readonly report?: BuildReport | undefined }> {
  const members = await membersOf(step, brought, hooks.signal);
  await using results = await ownResults(step, brought, hooks.signal);
  const places = { ...brought, results: results?.path };
  const { outcome, report } =
    step.task === 'scan'
      ? { outcome: await scan(engine, step, places, members, hooks), report: undefined }
      : await build(engine, step, places, members[0]!, hooks);
  const text = JSON.stringify(outcome, undefined, 1);
  const own = engine.owner?.renamed(text) ?? text;
  await writeText(places.resultDirectory, OUTCOME_FILE, `${own}\n`, places.owner);
  return { status: 'exitStatus' in outcome ? stepStatus(outcome.exitStatus) : 0, report };
}

/** The source packages, which must be those that the step means. */
async function membersOf(
  { members }: Step,
  { sources }: StepPlaces,
  signal: AbortSignal | undefined,
): Promise<Member[]> {
  const read = await readMembers(sources, signal);
  return members.map(({ name, file, sha256 }) => {
    const found = read.find((member) => member.name === name && member.sha256 === sha256);
    if (found !== undefined) return found;
    throw new KilnError('E_FARM_STEP', `${file} is not ${name} with the digest of the step`, {
      hint: 'it was changed after the step was written, or damaged on its way',
    });
  });
}

async function scan(
  engine: Engine,
  step: Step,
  places: StepPlaces,
  members: readonly Member[],
  { onImageProgress, signal }: BuildHooks,
): Promise<ScanOutcome> {
  const { update = false, offline } = step.options;
  const { name } = step.image;
  await using base = await openBase(engine, name, {
    update,
    offline,
    onProgress: onImageProgress,
    signal,
  });
  if (base.lock === undefined) {
    throw new KilnError('E_FARM_IMAGE', `it is not known where the packages of ${name} came from`, {
      hint: 'name the image by its recipe: workers make it from the same packages',
    });
  }
  const request = requestOf(step, places, name, places.sources[0] ?? '');
  const scans = await scanMembers(engine, base, request, members, signal);
  const roots: ScanOutcome['roots'] = [];
  for (const known of step.known) {
    const root = await rootNow(engine, base, request, known, signal);
    roots.push({ member: known.member, root: root ?? null });
  }
  return {
    kind: 'kiln-farm-scan',
    format: 1,
    image: { id: base.image.manifest.id, lock: base.lock },
    members: [...scans].map(([member, { requires, provides, problem }]) => ({
      name: member.name,
      requires: [...requires],
      provides: [...provides],
      problem: problem ?? null,
    })),
    roots,
  };
}

async function build(
  engine: Engine,
  step: Step,
  places: StepPlaces,
  member: Member,
  hooks: BuildHooks,
): Promise<{ readonly outcome: BuildOutcome; readonly report?: BuildReport }> {
  const started = Date.now();
  // A lock names the base: what comes on top of it is solved here, from the lock's repositories and the results.
  const file = `${step.image.name}.lock.json`;
  const lock = await ownLock(engine, step.image);
  await writeText(places.work, file, JSON.stringify(lock), places.owner);
  const request = requestOf(step, places, join(places.work, file), member.path);
  const head = {
    kind: 'kiln-farm-build',
    format: 1,
    member: member.name,
    worker: places.worker,
    started,
  } as const;
  const nothing = { failure: null, failedPhase: null, lastLines: [], packages: [], durationMs: 0 };
  const [known] = step.known;
  if (known !== undefined) {
    const { offline } = step.options;
    await using base = await openBase(engine, request.image, {
      update: false,
      offline,
      onProgress: hooks.onImageProgress,
      signal: hooks.signal,
    });
    if ((await rootNow(engine, base, request, known, hooks.signal)) === known.root) {
      const { requires } = known;
      const same = { state: 'unchanged', exitStatus: 0, root: null, requires } as const;
      return { outcome: { ...head, ...nothing, ...same, ended: Date.now() } };
    }
  }
  const report = await buildPackage(engine, request, hooks);
  const outcome = { ...head, ...(await described(engine, report)), ended: Date.now() };
  return { outcome, report };
}

async function described(
  engine: Engine,
  report: BuildReport,
): Promise<Omit<BuildOutcome, 'kind' | 'format' | 'member' | 'worker' | 'started' | 'ended'>> {
  const { failure, exitStatus, failedPhase, lastLines, buildRequires, packages, phases } = report;
  const root = failure === undefined ? await usedRoot(engine, report) : undefined;
  return {
    state: failure === undefined ? 'built' : 'failed',
    exitStatus,
    failure:
      failure === undefined
        ? null
        : { code: failure.code, message: failure.message, hint: failure.hint ?? null },
    failedPhase: failedPhase ?? null,
    lastLines: [...lastLines],
    root: root === undefined ? null : { digest: root.digest, packages: [...root.packages] },
    requires: [...buildRequires],
    packages: packages.map(({ file, sha256 }) => ({ file, sha256 })),
    durationMs: Math.max(0, ...phases.map(({ start, duration }) => start + duration)),
  };
}

/** The digest of the root that a member would be built in; undefined where it cannot be solved any more. */
async function rootNow(
  engine: Engine,
  base: BuildBase,
  request: BuildRequest,
  { requires, additionalPackages }: KnownBuild,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  try {
    const wanted = { ...request, additionalPackages };
    return (await plannedRoot(engine, base, wanted, requires, signal)).digest;
  } catch (error) {
    if (error instanceof KilnError && signal?.aborted !== true) return undefined;
    throw error;
  }
}

function requestOf(
  { options }: Step,
  { results, resultDirectory, owner, worker }: StepPlaces,
  image: string,
  path: string,
): BuildRequest {
  return {
    ...options,
    image,
    source: { kind: 'srpm', path },
    resultDirectory,
    caller: owner,
    repositories: results === undefined ? [] : [resultsRepository(results)],
    // The chain has asked for news once, for all.
    update: false,
    provenance: { ...options.provenance, worker },
  };
}
