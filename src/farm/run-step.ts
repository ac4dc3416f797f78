import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Owner } from '../artifacts/destination.ts';
import { writeText } from '../artifacts/staging.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import type { HeldPath } from '../host/files/held.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { requestedImage } from '../image/build.ts';
import { resolveImage } from '../image/find.ts';
import { type ImageLock, lockedSettings } from '../image/lock.ts';
import { readRecipe } from '../image/read-recipe.ts';
import { plannedRoot, usedRoot } from '../jobs/chain/build-member.ts';
import { type Member, readMembers, scanMembers } from '../jobs/chain/member.ts';
import { failureJson } from '../jobs/chain/request.ts';
import { resultsRepository } from '../jobs/chain/results.ts';
import { buildPackage } from '../jobs/rpmbuild/build.ts';
import { type BuildBase, openBase, openLockedBase } from '../jobs/rpmbuild/buildroot/base.ts';
import { describeRecipe } from '../jobs/rpmbuild/buildroot/describe-base.ts';
import type { BuildHooks, BuildReport } from '../jobs/rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../jobs/rpmbuild/request.ts';
import { lengthOf } from '../jobs/run/timeline.ts';
import { publishRepository } from '../packages/repository/publish/snapshot.ts';
import { isAbsoluteUrl } from '../packages/repository/transport/location.ts';
import {
  type BuildOutcome,
  type KnownBuild,
  OUTCOME_FILE,
  type ScanOutcome,
  type Step,
  stepStatus,
} from './step.ts';

export interface StepPlaces {
  readonly sources: readonly HeldPath[];
  readonly results: string | undefined;
  readonly resultDirectory: HeldPath;
  readonly work: string;
  readonly owner: Owner;
  readonly worker: string;
}

/**
 * Writes what came of a step to farm.json. @returns an exit status of {@link stepStatus}, and the report of a
 * build @throws KilnError E_FARM_IMAGE, E_FARM_STEP, E_RESULTDIR, E_RPM_FORMAT, and what opening the image
 * throws
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
  const text = `${JSON.stringify(engine.renamed(outcome), undefined, 1)}\n`;
  await writeText(places.resultDirectory, OUTCOME_FILE, text, places.owner);
  return { status: 'exitStatus' in outcome ? stepStatus(outcome.exitStatus) : 0, report };
}

/** They must be those that the step means. */
async function membersOf(
  { members }: Step,
  { sources }: StepPlaces,
  signal: AbortSignal | undefined,
): Promise<Member[]> {
  const read = new Map((await readMembers(sources, signal)).map((one) => [one.name, one]));
  return members.map(({ name, file, sha256 }) => {
    const found = read.get(name);
    if (found?.sha256 === sha256) return found;
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
  const opening = { update, offline, onProgress: onImageProgress, signal };
  await using base = await openBase(engine, name, opening);
  if (base.lock === undefined) {
    throw new KilnError('E_FARM_IMAGE', `it is not known where the packages of ${name} came from`, {
      hint: 'name the image by its recipe: workers make it from the same packages',
    });
  }
  const request = requestOf(step, places, places.sources[0]!);
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
  const imageLock = await ownLock(engine, step.image);
  const request = { ...requestOf(step, places, member.path), imageLock };
  const whose = { member: member.name, worker: places.worker, started };
  const head = { kind: 'kiln-farm-build', format: 1, ...whose } as const;
  const nothing = { failure: null, failedPhase: null, lastLines: [], packages: [], durationMs: 0 };
  const [known] = step.known;
  if (known !== undefined) {
    const { offline } = step.options;
    const { onImageProgress: onProgress, signal } = hooks;
    const opening = { update: false, offline, onProgress, signal };
    await using base = await openLockedBase(engine, imageLock, opening);
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

async function described(engine: Engine, report: BuildReport) {
  const { failure, exitStatus, failedPhase, lastLines, buildRequires, packages, phases } = report;
  const root = failure === undefined ? await usedRoot(engine, report) : undefined;
  return {
    state: failure === undefined ? ('built' as const) : ('failed' as const),
    exitStatus,
    failure: failure === undefined ? null : failureJson(failure),
    failedPhase: failedPhase ?? null,
    lastLines: [...lastLines],
    root: root === undefined ? null : { digest: root.digest, packages: [...root.packages] },
    requires: [...buildRequires],
    packages: packages.map(({ file, sha256 }) => ({ file, sha256 })),
    durationMs: lengthOf(phases),
  };
}

async function rootNow(
  engine: Engine,
  base: BuildBase,
  request: BuildRequest,
  { requires, additionalPackages }: KnownBuild,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  try {
    const wanted = { ...request, packages: additionalPackages };
    return (await plannedRoot(engine, base, wanted, requires, signal)).digest;
  } catch (error) {
    if (error instanceof KilnError && signal?.aborted !== true) return undefined;
    throw error;
  }
}

function requestOf(
  { image, options: { samples: _, ...options } }: Step,
  { results, resultDirectory, owner, worker }: StepPlaces,
  path: HeldPath,
): BuildRequest {
  return {
    ...options,
    image: image.name,
    caches: [],
    source: { kind: 'srpm', path },
    resultDirectory,
    caller: owner,
    repositories: results === undefined ? [] : [resultsRepository(results)],
    // The chain has asked for news once, for all.
    update: false,
    worker,
  };
}

/**
 * Where packages come from, which keys sign them and which files are written is this machine's recipe's to
 * say, never the step's. @throws KilnError E_FARM_IMAGE where the recipe makes another image, or there is
 * none
 */
async function ownLock(engine: Engine, { name, id, lock }: Step['image']): Promise<ImageLock> {
  const named = await resolveImage(engine, name, engine.cwd());
  if (named.kind !== 'recipe' || lock === null || id === null) {
    throw otherImageError(name, `this machine has no recipe ${name}`);
  }
  // Root would fetch what a user's step says.
  const outside = lock.packages.packages.find(({ location }) => isAbsoluteUrl(location));
  if (engine.owner !== undefined && outside !== undefined) {
    throw otherImageError(
      name,
      `${outside.nevra} is at ${outside.location}, not below a repository`,
    );
  }
  const recipe = await readRecipe(engine, named.path, named.arch);
  const own = (await describeRecipe(recipe, lock.packages.packages)).lock;
  if (own === undefined) {
    const why = 'its recipe here does not have all repositories that the packages come from';
    throw otherImageError(name, why);
  }
  const made = await requestedImage({ lock: own.packages, settings: lockedSettings(own) });
  if (made === id) return own;
  throw otherImageError(name, `its recipe here makes ${made.slice(0, 12)} of the same packages`);
}

function otherImageError(name: string, why: string): KilnError {
  return new KilnError('E_FARM_IMAGE', `${name} is another image on this machine: ${why}`, {
    hint: 'a worker and the submitting machine need the same kiln and the same recipes',
  });
}

interface OwnResults extends AsyncDisposable {
  readonly path: string;
}

/**
 * A repository of this machine's own making: the metadata that the step brings could name any file or server,
 * and any package by its digest. Links are not followed. @throws KilnError E_FARM_STEP where the packages are
 * not those that the step means; E_RPM_FORMAT, E_REPOSITORY_COLLISION
 */
async function ownResults(
  { results }: Step,
  { results: folder, work }: { readonly results: string | undefined; readonly work: string },
  signal: AbortSignal | undefined,
): Promise<OwnResults | undefined> {
  if (results === null || folder === undefined) return undefined;
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const files = entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.rpm'))
    .map(({ name }) => ({ path: join(folder, name) }));
  const directory = join(work, `results-${randomUUID()}`);
  await using made = new AsyncDisposableStack();
  made.defer(() => removeTree(directory));
  const snapshot = made.use(await publishRepository(directory, files, { signal }));
  if (snapshot.id !== results.snapshot) {
    const why = `${results.folder} does not have the packages that the step means`;
    throw new KilnError('E_FARM_STEP', why, {
      hint: 'it was changed after the step was written, or damaged on its way; links count for nothing',
    });
  }
  const held = made.move();
  return { path: snapshot.path, [Symbol.asyncDispose]: () => held.disposeAsync() };
}
