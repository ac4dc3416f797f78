import { editDistance } from '../edit-distance.ts';
import type { Id } from './libsolv-types.ts';
import type { Pool, PoolRepository } from './pool.ts';

/** selection.h */
const NAME = 1 << 0;
const PROVIDES = 1 << 1;
const FILELIST = 1 << 2;
const CANON = 1 << 3;
const DOTARCH = 1 << 4;
const REL = 1 << 5;
const GLOB = 1 << 9;
const NOCASE = 1 << 11;
const WITH_DISABLED = 1 << 16;
const WITH_BADARCH = 1 << 17;

/** solver.h */
const SOLVER_SOLVABLE = 0x01;
const SOLVER_SOLVABLE_ONE_OF = 0x04;
const SOLVER_INSTALL = 0x0100;
const SOLVER_WEAK = 0x010000;
const SOLVER_FORCEBEST = 0x100000;

/** Suggestions for one misspelt name, and how far they may be from it. */
const MAX_SIMILAR = 5;
const MAX_TYPOS = 2;

/** Pairs of numbers, as libsolv's job queue has them. */
export type Jobs = Id[];

/** A name is meant before what provides it, and that before a file of that name: dnf's order. */
const STEPS = [NAME | CANON | DOTARCH | REL | GLOB, PROVIDES | REL | GLOB] as const;
const FILE_STEPS = [FILELIST | GLOB, PROVIDES | GLOB] as const;

/**
 * Jobs that install what `spec` names: a name, name-version, NEVRA, glob, condition
 * (`foo >= 2`), capability or path. Undefined if nothing is called so.
 */
export function installJobs(pool: Pool, spec: string): Jobs | undefined {
  for (const step of steps(spec)) {
    const { jobs, solvables } = pool.select(spec, step);
    if (solvables.length === 0) continue;
    const renamed = renamedJobs(pool, spec, solvables);
    if (renamed !== undefined) return renamed;
    return jobs.map((value, index) =>
      // The newest that is asked for, or a problem: never an older one in silence.
      index % 2 === 0 ? value | SOLVER_INSTALL | SOLVER_FORCEBEST : value,
    );
  }
  return hasWildcard(spec) ? nevraGlobJobs(pool, spec) : undefined;
}

/**
 * A name that another package obsoletes means that one as well, as for dnf; undefined where there
 * is none. The solver prefers the one that obsoletes.
 */
function renamedJobs(pool: Pool, name: string, solvables: readonly Id[]): Jobs | undefined {
  if (solvables.some((solvable) => pool.name(solvable) !== name)) return undefined;
  const obsoleting = solvables.flatMap((solvable) => pool.obsoleting(solvable));
  const enabled = obsoleting.filter((solvable) => pool.isEnabled(solvable));
  if (enabled.length === 0) return undefined;
  const all = [...new Set([...solvables, ...enabled])];
  return [SOLVER_INSTALL | SOLVER_SOLVABLE_ONE_OF | SOLVER_FORCEBEST, pool.oneOf(all)];
}

/** Jobs that install the best package of each name of which a NEVRA matches the glob. */
function nevraGlobJobs(pool: Pool, glob: string): Jobs | undefined {
  const byName = new Map<string, Id[]>();
  for (const solvable of matchingNevras(pool, glob)) {
    if (!pool.isEnabled(solvable)) continue;
    const name = pool.name(solvable);
    byName.set(name, [...(byName.get(name) ?? []), solvable]);
  }
  const how = SOLVER_INSTALL | SOLVER_SOLVABLE_ONE_OF | SOLVER_FORCEBEST;
  const jobs = [...byName.values()].flatMap((solvables) => [how, pool.oneOf(solvables)]);
  return jobs.length === 0 ? undefined : jobs;
}

/** Jobs that install one package of this very name, or undefined if there is none. */
export function memberJobs(pool: Pool, name: string): Jobs | undefined {
  const { jobs, solvables } = pool.select(name, NAME | DOTARCH);
  if (solvables.length === 0) return undefined;
  return jobs.map((value, index) => (index % 2 === 0 ? value | SOLVER_INSTALL : value));
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

/** What `spec` would have named were it not excluded, as NEVRAs. */
export function excludedMatches(pool: Pool, spec: string): string[] {
  const solvables = steps(spec).flatMap(
    (step) => pool.select(spec, step | WITH_DISABLED).solvables,
  );
  return [...new Set(solvables)].slice(0, 10).map((solvable) => pool.nevra(solvable));
}

/** Names that look like a misspelt `spec`, the likeliest first. */
export function similarNames(pool: Pool, spec: string): string[] {
  const tries = [spec, `*${spec.replace(/[*?[\]]/g, '')}*`];
  const solvables = tries.flatMap((text) => pool.select(text, NAME | GLOB | NOCASE).solvables);
  const containing = [...new Set(solvables.map((solvable) => pool.name(solvable)))];
  containing.sort((a, b) => a.length - b.length);
  if (containing.length > 0) return containing.slice(0, MAX_SIMILAR);
  const names = new Set<string>();
  for (const member of pool.repositories.flatMap((each) => [...pool.members(each)])) {
    const name = pool.name(member);
    if (Math.abs(name.length - spec.length) <= MAX_TYPOS) names.add(name);
  }
  return [...names]
    .map((name) => ({ name, typos: editDistance(spec, name, MAX_TYPOS) }))
    .filter((entry) => entry.typos <= MAX_TYPOS && entry.typos < spec.length / 2)
    .sort((a, b) => a.typos - b.typos)
    .slice(0, MAX_SIMILAR)
    .map(({ name }) => name);
}

/** Applies a repository's own `includepkgs` and `excludepkgs`. */
export function applyFilters(
  pool: Pool,
  repository: PoolRepository,
  filters: { readonly includepkgs: readonly string[]; readonly excludepkgs: readonly string[] },
): void {
  if (filters.includepkgs.length === 0 && filters.excludepkgs.length === 0) return;
  const members = new Set(pool.members(repository));
  const matches = (patterns: readonly string[]) =>
    patterns.flatMap((pattern) => namedSolvables(pool, pattern)).filter((id) => members.has(id));
  if (filters.includepkgs.length > 0) {
    const included = new Set(matches(filters.includepkgs));
    pool.disable([...members].filter((id) => !included.has(id)));
  }
  pool.disable(matches(filters.excludepkgs));
}

/** Packages (excluded ones, too) whose name, name.arch or NEVRA matches the glob `pattern`. */
export function namedSolvables(pool: Pool, pattern: string): Id[] {
  const flags = NAME | CANON | DOTARCH | GLOB | WITH_DISABLED | WITH_BADARCH;
  const { solvables } = pool.select(pattern, flags);
  return hasWildcard(pattern) ? [...solvables, ...matchingNevras(pool, pattern)] : solvables;
}

function hasWildcard(spec: string): boolean {
  return /[*?[]/.test(spec);
}

/**
 * Packages of which name-version, name-version-release or the whole NEVRA matches; libsolv's own
 * globs know names only.
 */
function matchingNevras(pool: Pool, glob: string): Id[] {
  if (!/[-:]/.test(glob)) return [];
  const expression = globExpression(glob);
  const found: Id[] = [];
  for (const solvable of pool.repositories.flatMap((member) => [...pool.members(member)])) {
    const nevra = pool.nevra(solvable);
    const withoutArch = nevra.slice(0, nevra.lastIndexOf('.'));
    const withoutRelease = withoutArch.slice(0, withoutArch.lastIndexOf('-'));
    if ([nevra, withoutArch, withoutRelease].some((text) => expression.test(text))) {
      found.push(solvable);
    }
  }
  return found;
}

/** fnmatch(3)'s notation as a regular expression. */
function globExpression(glob: string): RegExp {
  const source = glob.replace(/\[(!|\^)?([^\]]+)\]|[*?]|[^*?[]+|\[/g, (part, not, set) => {
    if (set !== undefined) return `[${not ? '^' : ''}${set.replace(/[\\\]^]/g, '\\$&')}]`;
    if (part === '*') return '.*';
    if (part === '?') return '.';
    return part.replace(/[\\^$.|+(){}]/g, '\\$&').replaceAll('[', '\\[');
  });
  return new RegExp(`^${source}$`, 's');
}

function steps(spec: string): readonly number[] {
  return spec.startsWith('/') ? FILE_STEPS : STEPS;
}
