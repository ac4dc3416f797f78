import type { Pointer } from '../../host/calls/c-library.ts';
import { editDistance } from '../../suggest.ts';
import { collectIds, IdQueue } from './libsolv/layout.ts';
import type { Id } from './libsolv/libsolv.ts';
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

/** @param best the newest that is asked for, or a problem: never an older one in silence */
function install(best: boolean): number {
  return SOLVER_INSTALL | (best ? SOLVER_FORCEBEST : 0);
}

const MAX_SIMILAR = 5;
const MAX_TYPOS = 2;

/** solver.h: the same flags as libdnf sets, so that the same packages are chosen. */
const ALLOW_VENDORCHANGE = 3;
const IGNORE_RECOMMENDED = 7;
const BEST_OBEY_POLICY = 12;
const KEEP_ORPHANS = 18;
const YUM_OBSOLETES = 21;

/** A problem may rest on thousands of rules; a person reads the first few. */
const MAX_LINES = 50;

/** Pairs of numbers, as libsolv's job queue has them. */
export type Jobs = Id[];

/**
 * Jobs that install what `spec` names: a name, name-version, NEVRA, glob, condition
 * (`foo >= 2`), capability or path. Undefined if nothing is called so.
 */
export function installJobs(packages: Packages, spec: string): Jobs | undefined {
  const match = matchAll(packages, packages.enabled(packages.all), spec);
  if (match === undefined) return undefined;
  const withObsoletes = match.kind === 'name' || isGlob(match.arch ?? '');
  return parted(match, spec).flatMap((part) =>
    oneOfJob(packages, part, { withObsoletes, best: true }),
  );
}

/** Of each part of what matches one package is installed: dnf's `Base.install`. */
function parted({ kind, packages, arch }: Match, spec: string): (readonly Package[])[] {
  if (isGlob(arch ?? '')) {
    return [...Map.groupBy(packages, ({ name, arch }) => `${name} ${arch}`).values()];
  }
  const byName = kind === 'glob' || (isGlob(spec) && !isFilePattern(spec));
  return byName ? [...Map.groupBy(packages, ({ name }) => name).values()] : [packages];
}

/** Installs one of `candidates`. What obsoletes the newest of them is meant as well, as for dnf. */
function oneOfJob(
  packages: Packages,
  candidates: readonly Package[],
  { withObsoletes, best }: { readonly withObsoletes: boolean; readonly best: boolean },
): Jobs {
  const obsoleting = withObsoletes
    ? packages.enabled(packages.obsoleting(packages.latest(candidates)))
    : [];
  return packagesJob(packages.pool, [...new Set([...candidates, ...obsoleting])], best);
}

export function providesJob(
  pool: Pool,
  name: string,
  { best, weak }: { readonly best: boolean; readonly weak: boolean },
): Jobs {
  const how = install(best) | SOLVER_SOLVABLE_PROVIDES | (weak ? SOLVER_WEAK : 0);
  return [how, pool.id(name)];
}

export function packagesJob(pool: Pool, candidates: readonly Package[], best: boolean): Jobs {
  const how = install(best) | SOLVER_SOLVABLE_ONE_OF | SOLVER_SETEVR | SOLVER_SETARCH;
  return [how, pool.oneOf(candidates.map(({ id }) => id).sort((a, b) => a - b))];
}

export function memberJobs(packages: Packages, name: string, best: boolean): Jobs | undefined {
  const found = named(packages, name);
  if (found.length === 0) return undefined;
  return oneOfJob(packages, found, { withObsoletes: true, best });
}

export function conditionalJobs(
  packages: Packages,
  { name, requires }: { readonly name: string; readonly requires: string },
  best: boolean,
): Jobs | undefined {
  if (named(packages, name).length === 0) return undefined;
  const dependency = packages.pool.dependency(`(${name} if ${requires})`);
  return [install(best) | SOLVER_SOLVABLE_PROVIDES, dependency];
}

function named(packages: Packages, name: string): Package[] {
  return packages
    .enabled(packages.all)
    .filter((candidate) => packages.text(candidate.name) === name);
}

export function packageJob(solvable: Id, weak: boolean): Jobs {
  return [SOLVER_INSTALL | SOLVER_SOLVABLE | (weak ? SOLVER_WEAK : 0), solvable];
}

export function findNevra(pool: Pool, nevra: string): Id[] {
  return pool.select(nevra, CANON).filter((solvable) => pool.nevra(solvable) === nevra);
}

export function excludedMatches(packages: Packages, spec: string): readonly Package[] {
  return matchAll(packages, packages.all, spec)?.packages.slice(0, 10) ?? [];
}

export function similarNames(packages: Packages, spec: string): string[] {
  const { pool } = packages;
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

export function applyFilters(
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
    const others = packages.all.filter((candidate) => own(candidate) && !included.has(candidate));
    disable(packages, others);
  }
  disable(packages, matches(filters.excludepkgs));
}

export function applyExclude(packages: Packages, pattern: string): void {
  disable(packages, namedPackages(packages, pattern));
}

function namedPackages(packages: Packages, pattern: string): readonly Package[] {
  return matchNames(packages, packages.all, pattern)?.packages ?? [];
}

function disable({ pool }: Packages, some: readonly Package[]): void {
  pool.disable(some.map(({ id }) => id));
}

export function runSolver(pool: Pool, jobs: readonly Id[], recommends: boolean) {
  const { solver: calls } = pool.library;
  const solver = calls.create(pool.address);
  for (const flag of [ALLOW_VENDORCHANGE, BEST_OBEY_POLICY, KEEP_ORPHANS, YUM_OBSOLETES]) {
    calls.setFlag(solver, flag, 1);
  }
  calls.setFlag(solver, IGNORE_RECOMMENDED, recommends ? 0 : 1);
  using queue = new IdQueue(jobs);
  const count = calls.solve(solver, queue.raw);
  const problems = Array.from({ length: count }, (_, index) => {
    const rules = collectIds((found) => calls.allProblemRules(solver, index + 1, found));
    return [...new Set(rules.map((rule) => ruleText(pool, solver, rule)))].slice(0, MAX_LINES);
  });
  return { problems, solver };
}

function ruleText(pool: Pool, solver: Pointer, rule: number): string {
  const { solver: calls } = pool.library;
  const from: [number] = [0];
  const to: [number] = [0];
  const dependency: [number] = [0];
  const type = calls.ruleInfo(solver, rule, from, to, dependency);
  return calls.ruleText(solver, type, from[0], to[0], dependency[0]);
}
