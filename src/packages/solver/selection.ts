import { editDistance } from '../../edit-distance.ts';
import type { Id } from './libsolv/libsolv-types.ts';
import type { Pool, PoolRepository } from './libsolv/pool.ts';
import { isFilePattern, isGlob, type Match, matchAll, matchNames } from './match.ts';
import type { Package, Packages } from './packages.ts';

/** selection.h */
const CANON = 1 << 3;

/** solver.h */
const SOLVER_SOLVABLE = 0x01;
const SOLVER_SOLVABLE_PROVIDES = 0x03;
const SOLVER_SOLVABLE_ONE_OF = 0x04;
const SOLVER_INSTALL = 0x0100;
const SOLVER_WEAK = 0x010000;
const SOLVER_FORCEBEST = 0x100000;
const SOLVER_SETEVR = 0x02000000;
const SOLVER_SETARCH = 0x04000000;

/** The newest that is asked for, or a problem: never an older one in silence. */
const INSTALL_BEST = SOLVER_INSTALL | SOLVER_FORCEBEST;

/** Suggestions for one misspelt name, and how far they may be from it. */
const MAX_SIMILAR = 5;
const MAX_TYPOS = 2;

/** Pairs of numbers, as libsolv's job queue has them. */
export type Jobs = Id[];

/**
 * Jobs that install what `spec` names: a name, name-version, NEVRA, glob, condition
 * (`foo >= 2`), capability or path. Undefined if nothing is called so.
 */
export function installJobs(pool: Pool, packages: Packages, spec: string): Jobs | undefined {
  const match = matchAll(pool, packages, packages.enabled(packages.all), spec);
  if (match === undefined) return undefined;
  const withObsoletes = match.kind === 'name' || isGlob(match.arch ?? '');
  return parted(match, spec).flatMap((part) =>
    oneOfJob(pool, packages, part, { withObsoletes, best: true }),
  );
}

/** Of each part of what matches one package is installed: dnf's `Base.install`. */
function parted({ kind, packages, arch }: Match, spec: string): (readonly Package[])[] {
  if (isGlob(arch ?? '')) return groupedBy(packages, ({ name, arch }) => `${name} ${arch}`);
  const byName = kind === 'glob' || (isGlob(spec) && !isFilePattern(spec));
  return byName ? groupedBy(packages, ({ name }) => `${name}`) : [packages];
}

function groupedBy(
  packages: readonly Package[],
  key: (candidate: Package) => string,
): (readonly Package[])[] {
  return [...Map.groupBy(packages, key).values()];
}

/**
 * The job that installs one of `candidates`. What obsoletes the newest of them is meant as well, as
 * for dnf: the solver prefers it.
 */
function oneOfJob(
  pool: Pool,
  packages: Packages,
  candidates: readonly Package[],
  { withObsoletes, best }: { readonly withObsoletes: boolean; readonly best: boolean },
): Jobs {
  const obsoleting = withObsoletes
    ? packages.enabled(packages.obsoleting(packages.latest(candidates)))
    : [];
  return packagesJob(pool, [...new Set([...candidates, ...obsoleting])], best);
}

/** The job that installs a provider of `name`; `weak`: unless something else stands in the way. */
export function providesJob(
  pool: Pool,
  name: string,
  { best, weak }: { readonly best: boolean; readonly weak: boolean },
): Jobs {
  const how = SOLVER_INSTALL | (best ? SOLVER_FORCEBEST : 0) | (weak ? SOLVER_WEAK : 0);
  return [how | SOLVER_SOLVABLE_PROVIDES, pool.id(name)];
}

/** The job that installs one of these packages: the best, unless it may be one that is there already. */
export function packagesJob(pool: Pool, candidates: readonly Package[], best: boolean): Jobs {
  const install = best ? INSTALL_BEST : SOLVER_INSTALL;
  const how = install | SOLVER_SOLVABLE_ONE_OF | SOLVER_SETEVR | SOLVER_SETARCH;
  return [how, pool.oneOf(candidates.map(({ id }) => id).sort((a, b) => a - b))];
}

/** Jobs that install one package of this very name, or undefined if there is none. */
export function memberJobs(
  pool: Pool,
  packages: Packages,
  name: string,
  best: boolean,
): Jobs | undefined {
  const found = named(packages, name);
  if (found.length === 0) return undefined;
  return oneOfJob(pool, packages, found, { withObsoletes: true, best });
}

/** Jobs that install `name` if `requires` is installed, or undefined if there is none of that name. */
export function conditionalJobs(
  pool: Pool,
  packages: Packages,
  { name, requires }: { readonly name: string; readonly requires: string },
  best: boolean,
): Jobs | undefined {
  if (named(packages, name).length === 0) return undefined;
  const install = best ? INSTALL_BEST : SOLVER_INSTALL;
  return [install | SOLVER_SOLVABLE_PROVIDES, pool.dependency(`(${name} if ${requires})`)];
}

function named(packages: Packages, name: string): Package[] {
  return packages
    .enabled(packages.all)
    .filter((candidate) => packages.text(candidate.name) === name);
}

/** The job that installs one package; `weak`: unless something else stands in the way. */
export function packageJob(solvable: Id, weak: boolean): Jobs {
  return [SOLVER_INSTALL | SOLVER_SOLVABLE | (weak ? SOLVER_WEAK : 0), solvable];
}

/** Packages of exactly this NEVRA. */
export function findNevra(pool: Pool, nevra: string): Id[] {
  const { solvables } = pool.select(nevra, CANON);
  return solvables.filter((solvable) => pool.nevra(solvable) === nevra);
}

/** What `spec` would have named were it not excluded. */
export function excludedMatches(pool: Pool, packages: Packages, spec: string): readonly Package[] {
  return matchAll(pool, packages, packages.all, spec)?.packages.slice(0, 10) ?? [];
}

/** Names, or capabilities of the same kind, that look like a misspelt `spec`, the likeliest first. */
export function similarNames(pool: Pool, packages: Packages, spec: string): string[] {
  const plain = spec.replace(/[*?[\]]/g, '').toLowerCase();
  const enabled = packages.enabled(packages.all);
  const [, kind] = /^([^(]+\()/.exec(spec) ?? [];
  const names = new Set(
    kind === undefined
      ? enabled.map(({ name }) => packages.text(name))
      : enabled
          .flatMap(({ id }) => pool.array(id, 'solvable:provides'))
          .map((id) => packages.text(pool.dependencyName(id)))
          .filter((name) => name.startsWith(kind)),
  );
  const containing = [...names].filter(
    (name) => plain !== '' && name.toLowerCase().includes(plain),
  );
  containing.sort((a, b) => a.length - b.length);
  if (containing.length > 0) return containing.slice(0, MAX_SIMILAR);
  return [...names]
    .filter((name) => Math.abs(name.length - spec.length) <= MAX_TYPOS)
    .map((name) => ({ name, typos: editDistance(spec, name, MAX_TYPOS) }))
    .filter((entry) => entry.typos <= MAX_TYPOS && entry.typos < spec.length / 2)
    .sort((a, b) => a.typos - b.typos)
    .slice(0, MAX_SIMILAR)
    .map(({ name }) => name);
}

/** Applies a repository's own `includepkgs` and `excludepkgs`. */
export function applyFilters(
  pool: Pool,
  packages: Packages,
  repository: PoolRepository,
  filters: { readonly includepkgs: readonly string[]; readonly excludepkgs: readonly string[] },
): void {
  if (filters.includepkgs.length === 0 && filters.excludepkgs.length === 0) return;
  const own = (candidate: Package) => candidate.repository === repository;
  const matches = (patterns: readonly string[]) =>
    patterns.flatMap((pattern) => namedPackages(packages, pattern)).filter(own);
  if (filters.includepkgs.length > 0) {
    const included = new Set(matches(filters.includepkgs));
    disable(
      pool,
      packages.all.filter((candidate) => own(candidate) && !included.has(candidate)),
    );
  }
  disable(pool, matches(filters.excludepkgs));
}

/** Leaves packages out whose name, name.arch, NEVRA, … matches `pattern`. */
export function applyExclude(pool: Pool, packages: Packages, pattern: string): void {
  disable(pool, namedPackages(packages, pattern));
}

function namedPackages(packages: Packages, pattern: string): readonly Package[] {
  return matchNames(packages, packages.all, pattern)?.packages ?? [];
}

function disable(pool: Pool, packages: readonly Package[]): void {
  pool.disable(packages.map(({ id }) => id));
}
