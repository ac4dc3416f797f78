import type { Engine } from '../../../engine.ts';
import { isKilnCode, KilnError } from '../../../errors.ts';
import { ensureImage, requestedImage } from '../../../image/build.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import { reachOf } from '../../../image/store/entry.ts';
import { type LeasedImage, leaseImage } from '../../../image/store/images.ts';
import { readManifest } from '../../../image/store/manifest.ts';
import type { Lock } from '../../../packages/repository/lock/lock.ts';
import { openRepositories, type RepositorySet } from '../../../packages/repository/open.ts';
import { solve } from '../../../packages/solver/solve.ts';
import type { Solution } from '../../../packages/solver/solve-request.ts';
import type { BuildRequest } from '../request.ts';
import { assertCached, type BuildBase } from './base.ts';

interface LayerRequest {
  readonly requires: readonly string[];
  readonly additionalPackages: readonly string[];
}

export interface Layer {
  /** Packages on top of the base; with `whole`, all packages of the image. Null: none are added. */
  readonly lock: Lock | null;
  /** The solution replaces packages of the base: the image is made from nothing. */
  readonly whole: boolean;
  readonly warnings: readonly string[];
}

export const NO_LAYER: Layer = { lock: null, whole: false, warnings: [] };

interface LayerContext {
  readonly engine: Engine;
  readonly base: BuildBase;
  readonly offline?: boolean | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

export async function buildRepositories(
  { engine, base, onProgress, signal }: LayerContext,
  request: BuildRequest,
): Promise<RepositorySet> {
  const { repositories: added = [], offline, update } = request;
  const taken = new Set(added.map(({ id }) => id));
  const repositories = [...base.repositories.filter(({ id }) => !taken.has(id)), ...added];
  return await openRepositories(repositories, {
    ...reachOf(engine.paths, base.user),
    refresh: offline === true ? 'never' : update === true ? 'always' : 'auto',
    onProgress,
    signal,
  });
}

/**
 * Finds the packages that a build needs beyond its base.
 * @throws KilnError E_BUILD_REPOSITORIES without repositories; E_SOLVER_PROBLEM, E_SOLVER_NO_MATCH and what solving
 * throws
 */
export async function solveLayer(
  set: RepositorySet,
  { base, onProgress, signal }: LayerContext,
  { requires, additionalPackages }: LayerRequest,
): Promise<Layer> {
  const { arch } = base.image.manifest;
  if (set.members.length === 0) throw unknownRepositoriesError();
  const { lock, warnings } = await solve(set, {
    arch,
    install: [...base.install, ...additionalPackages],
    requires,
    exclude: base.exclude,
    modules: base.modules,
    recommends: base.recommends,
    keep: { packages: base.packages },
    onProgress,
    signal,
  }).catch(async (error: unknown) => {
    // What a chain or --addrepo adds need not have what the image is made of.
    const isUnknown = isKilnCode(error, 'E_SOLVER_NO_MATCH');
    if (isUnknown && base.repositories.length === 0) throw unknownRepositoriesError();
    throw await missingRequires(error, set, { arch, signal });
  });
  const there = new Set(base.packages.map(({ digest }) => digest));
  const wanted = new Set(lock.packages.map(({ digest }) => digest));
  const added = lock.packages.filter(({ digest }) => !there.has(digest));
  const whole = base.packages.some(({ digest }) => !wanted.has(digest));
  if (whole) return { lock, whole, warnings };
  if (added.length === 0) return { lock: null, whole, warnings };
  return { lock: onTop(lock, added, [...additionalPackages, ...requires]), whole, warnings };
}

function unknownRepositoriesError(): KilnError {
  const what =
    'kiln does not know where to get packages from: an image does not tell where it came from';
  return new KilnError('E_BUILD_REPOSITORIES', what, {
    hint: 'name the image by its recipe or its lock, not by its own name or id; or give --addrepo',
  });
}

function onTop(lock: Lock, packages: Lock['packages'], requested: readonly string[]): Lock {
  const used = new Set(packages.map(({ repository }) => repository));
  return {
    ...lock,
    requested: [...requested],
    repositories: lock.repositories.filter(({ id }) => used.has(id)),
    packages,
  };
}

export async function openLayer(context: LayerContext, layer: Layer): Promise<LeasedImage> {
  const { engine, base, onProgress, signal } = context;
  const { id } = base.image.manifest;
  if (layer.lock === null) {
    const lease = await leaseImage(engine.paths, id);
    if (lease === undefined) throw new TypeError(`image ${id} is leased, and it is gone`);
    return lease;
  }
  const { lock, whole } = layer;
  const settings = whole
    ? base.settings
    : { ...base.settings, users: [], files: [], user: base.image.manifest.user.name };
  const request = {
    lock,
    settings: { ...settings, name: `${base.image.manifest.name}+${lock.packages.length}` },
    ...(whole ? {} : { base: id }),
  };
  const { user } = base;
  if (context.offline === true) {
    const isThere = readManifest(engine.paths, await requestedImage(request)) !== undefined;
    if (!isThere) assertCached(reachOf(engine.paths, user).paths, lock);
  }
  return await ensureImage({ engine, ...request, user, owner: engine.owner, onProgress, signal });
}

const NOTHING = /^nothing provides (.+) needed by this request: /;

interface Question {
  readonly arch: string;
  readonly signal?: AbortSignal | undefined;
}

/** The error in words about what no package provides, where that is all that is wrong. */
export async function missingRequires(
  error: unknown,
  set: RepositorySet,
  question: Question,
): Promise<unknown> {
  if (!isKilnCode(error, 'E_SOLVER_PROBLEM')) return error;
  const missing = missingOf(error.details?.problems);
  if (missing.length === 0) return error;
  const alike = await namesAlike(missing, set, question);
  const lines = missing.map((requirement) => `\n  ${alike.get(requirement) ?? requirement}`);
  return new KilnError('E_SOLVER_PROBLEM', `no package provides:${lines.join('')}`, {
    hint: 'mend the BuildRequires of the spec, or give the repository that has it with --addrepo',
    details: { problems: error.details?.problems, missing },
  });
}

function missingOf(problems: unknown): string[] {
  if (!Array.isArray(problems)) return [];
  const found = problems.map((lines: unknown) =>
    Array.isArray(lines)
      ? lines.map((line) => NOTHING.exec(String(line))?.[1]).find((it) => it !== undefined)
      : undefined,
  );
  return found.every((requirement) => requirement !== undefined) ? [...new Set(found)] : [];
}

async function namesAlike(
  missing: readonly string[],
  set: RepositorySet,
  question: Question,
): Promise<Map<string, string>> {
  const alike = new Map<string, string>();
  for (const requirement of missing) {
    const [name = ''] = requirement.split(' ');
    const answer = await solve(set, { ...question, install: [name] }).catch((it: Error) => it);
    const note = answer instanceof Error ? wrongName(answer) : wrongVersion(name, answer);
    if (note !== undefined) alike.set(requirement, `${requirement}${note}`);
  }
  return alike;
}

function wrongName(error: Error): string | undefined {
  if (!isKilnCode(error, 'E_SOLVER_NO_MATCH')) return undefined;
  return / \(did you mean .*\?\)$/m.exec(error.message)?.[0];
}

function wrongVersion(name: string, { lock }: Solution): string | undefined {
  const found = lock.packages.find((candidate) => candidate.name === name);
  return found === undefined ? undefined : ` (there is ${found.nevra})`;
}
