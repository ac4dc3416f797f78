import { KilnError } from '../../../errors.ts';
import { ensureImage, requestedImage } from '../../../image/build.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import { type LeasedImage, leaseImage } from '../../../image/store/images.ts';
import { ownersOf, ROOT } from '../../../image/store/owners.ts';
import type { PackageUser } from '../../../image/store/package-readers.ts';
import type { Lock } from '../../../packages/repository/lock/lock.ts';
import { openRepositories, type RepositorySet } from '../../../packages/repository/open.ts';
import type { RefreshMode } from '../../../packages/repository/refresh.ts';
import { solve } from '../../../packages/solver/solve.ts';
import type { Engine } from '../../../sandbox/open.ts';
import type { BuildRequest } from '../request.ts';
import type { BuildBase } from './base.ts';
import { missingRequires } from './missing-requires.ts';
import { assertCached } from './offline.ts';

/** What decides the image a build runs in, beyond its base. */
export interface LayerRequest {
  /** As the spec has them. */
  readonly requires: readonly string[];
  readonly additionalPackages: readonly string[];
}

/** What is put on top of a base. */
export interface Layer {
  /** Packages on top of the base; with `whole`, all of the image's. Null: nothing is to add. */
  readonly lock: Lock | null;
  /** The solution replaces packages of the base: the image is made from nothing. */
  readonly whole: boolean;
  readonly warnings: readonly string[];
}

/** What solving and building images needs. */
export interface LayerContext {
  readonly engine: Engine;
  readonly base: BuildBase;
  readonly offline?: boolean | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens the repositories of a build: those of the base and `--addrepo`'s.
 * @throws what {@link openRepositories} throws; E_BUILD_REPOSITORIES when there are none.
 */
export async function buildRepositories(
  { engine, base, onProgress, signal }: LayerContext,
  request: BuildRequest,
): Promise<RepositorySet> {
  const added = request.repositories ?? [];
  const taken = new Set(added.map(({ id }) => id));
  const repositories = [...base.repositories.filter(({ id }) => !taken.has(id)), ...added];
  return await openRepositories(repositories, {
    paths: engine.paths,
    refresh: refreshMode(request),
    onProgress,
    signal,
  });
}

function refreshMode({ offline, update }: BuildRequest): RefreshMode {
  if (offline === true) return 'never';
  return update === true ? 'always' : 'auto';
}

/**
 * Finds out which packages a build needs beyond its base.
 * @throws KilnError E_SOLVER_PROBLEM, E_SOLVER_NO_MATCH and what solving throws.
 */
export async function solveLayer(
  set: RepositorySet,
  { base, onProgress, signal }: LayerContext,
  { requires, additionalPackages }: LayerRequest,
): Promise<Layer> {
  const { arch } = base.image.manifest;
  if (set.members.length === 0) {
    throw new KilnError('E_BUILD_REPOSITORIES', 'kiln does not know where to get packages from', {
      hint: 'name the base image by its recipe or its lock, not by its id, or give --addrepo',
    });
  }
  const keep: Lock = {
    format: 1,
    arch,
    requested: [],
    repositories: [],
    packages: [...base.packages],
  };
  const { lock, warnings } = await solve(set, {
    arch,
    install: [...base.install, ...additionalPackages],
    requires,
    exclude: base.exclude,
    modules: base.modules,
    recommends: base.recommends,
    keep,
    onProgress,
    signal,
  }).catch(async (error: unknown) => {
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

/** The part of a solution that comes on top. */
function onTop(lock: Lock, packages: Lock['packages'], requested: readonly string[]): Lock {
  const used = new Set(packages.map(({ repository }) => repository));
  return {
    ...lock,
    requested: [...requested],
    repositories: lock.repositories.filter(({ id }) => used.has(id)),
    packages,
  };
}

/**
 * The image of a layer, taken into use; made if there is none. Builds that need the same wait for
 * one to make it.
 * @throws what {@link ensureImage} throws.
 */
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
  const owner = ownerOf(context, lock);
  if (context.offline === true) {
    const lease = await leaseImage(engine.paths, await requestedImage(request));
    if (lease !== undefined && owner === undefined) return lease;
    if (lease === undefined) assertCached(engine.paths, lock);
    await lease?.[Symbol.asyncDispose]();
  }
  return await ensureImage({ engine, ...request, owner, onProgress, signal });
}

/** The user who is not root, of a layer that has packages of the user's own or an image that root does not have. */
function ownerOf(
  { engine: { owner, paths }, base }: LayerContext,
  lock: Lock,
): PackageUser | undefined {
  const isRoots = ownersOf(paths, base.image.manifest).has(ROOT);
  return isRoots && !hasOwnPackages(base, lock) ? undefined : owner;
}

/** Whether packages are from a folder that the request has brought: kiln has published results of a chain there. */
function hasOwnPackages(base: BuildBase, { repositories, packages }: Lock): boolean {
  const folders = base.repositories.map(({ source }) =>
    source.kind === 'directory' ? source.path : undefined,
  );
  const own = repositories.filter(
    ({ source }) => source.kind === 'directory' && !folders.includes(source.path),
  );
  return packages.some(({ repository }) => own.some(({ id }) => id === repository));
}
