import { readPool, readRelation } from './libsolv/layout.ts';
import type { Id } from './libsolv/libsolv-types.ts';
import type { Pool } from './libsolv/pool.ts';

/**
 * Whether primary metadata lists a file of this path (createrepo_c's filter); all others are in
 * filelists only.
 */
function isPrimaryFile(path: string): boolean {
  return path.startsWith('/etc/') || path.includes('bin/') || path === '/usr/lib/sendmail';
}

/** The first path in `text` (a request or a problem) that only filelists could know. */
export function unlistedPath(text: string): string | undefined {
  const paths = text.match(/(?<![\w/.:])\/[^\s(),]+/g) ?? [];
  return paths.find((path) => !isPrimaryFile(path));
}

/** What else {@link missedFiles} looks at. */
interface MissedOptions {
  /** The packages that may be what was asked for. */
  readonly requested: Iterable<Id>;
  /** Whether weak dependencies count. */
  readonly recommends: boolean;
  /** Where they do, the packages that supplement others. */
  readonly supplementing: Iterable<Id>;
}

/**
 * Says why a solution that was found without filelists might be another one with them, or
 * undefined if it would not. That is so if a package which could have been chosen (it was asked
 * for, or provides something that the solution needs) was not, because a file that it requires, or
 * that all packages require which it could require, is not in primary metadata; or if a chosen one conflicts with such a file, or recommends it and that
 * counts.
 */
export function missedFiles(
  pool: Pool,
  solution: readonly Id[],
  { requested, recommends, supplementing }: MissedOptions,
): string | undefined {
  const chosen = new Set(solution);
  const names = new Set(solution.map((solvable) => pool.name(solvable)));
  const paths = new DependencyPaths(pool);
  const blocked = new Blocked(pool, paths, new Set(solution));
  const seen = new Set<Id>();
  for (const candidate of requested) {
    // Of a name that is chosen the best was asked for, and found.
    if (chosen.has(candidate) || names.has(pool.name(candidate))) continue;
    const needed = blocked.because(candidate, 0);
    if (needed !== undefined) return `${pool.nevra(candidate)} requires ${needed}`;
  }
  for (const candidate of supplementing) {
    if (chosen.has(candidate)) continue;
    const supplements = pool.array(candidate, 'solvable:supplements');
    const wanted = supplements.some((dependency) =>
      pool.providers(dependency).some((id) => chosen.has(id)),
    );
    const needed =
      paths.find(supplements) ??
      (wanted ? paths.find(pool.array(candidate, 'solvable:requires')) : undefined);
    if (needed !== undefined) return `${pool.nevra(candidate)} is about ${needed}`;
  }
  for (const solvable of solution) {
    const conflict = paths.find(pool.array(solvable, 'solvable:conflicts'));
    if (conflict !== undefined) return `${pool.nevra(solvable)} conflicts with ${conflict}`;
    const recommended = recommends ? pool.array(solvable, 'solvable:recommends') : [];
    // What is required was found; what is recommended is missed without a word.
    const missed = paths.find(recommended);
    if (missed !== undefined) return `${pool.nevra(solvable)} recommends ${missed}`;
    for (const dependency of [...pool.array(solvable, 'solvable:requires'), ...recommended]) {
      if (seen.has(dependency)) continue;
      seen.add(dependency);
      for (const candidate of pool.providers(dependency)) {
        if (chosen.has(candidate)) continue;
        chosen.add(candidate);
        const needed = blocked.because(candidate, 0);
        if (needed !== undefined) return `${pool.nevra(candidate)} requires ${needed}`;
      }
    }
  }
  return undefined;
}

/** Finds packages that cannot be installed for want of a file, their own or of all that they could require. */
class Blocked {
  readonly #pool: Pool;
  readonly #paths: DependencyPaths;
  readonly #chosen: ReadonlySet<Id>;
  readonly #known = new Map<Id, string | undefined>();

  constructor(pool: Pool, paths: DependencyPaths, chosen: ReadonlySet<Id>) {
    this.#pool = pool;
    this.#paths = paths;
    this.#chosen = chosen;
  }

  /** The path that `candidate` waits for. */
  because(candidate: Id, depth: number): string | undefined {
    if (this.#chosen.has(candidate) || depth > 100) return undefined;
    if (this.#known.has(candidate)) return this.#known.get(candidate);
    // Packages that require one another are not what blocks.
    this.#known.set(candidate, undefined);
    const requires = this.#pool.array(candidate, 'solvable:requires');
    const path = this.#paths.find(requires) ?? this.#ofAll(requires, depth);
    this.#known.set(candidate, path);
    return path;
  }

  /** The path for want of which nothing can be had that provides one of these. */
  #ofAll(dependencies: readonly Id[], depth: number): string | undefined {
    for (const dependency of dependencies) {
      const providers = this.#pool.providers(dependency);
      let path: string | undefined;
      const isBlocked = (provider: Id) => {
        path = this.because(provider, depth + 1);
        return path !== undefined;
      };
      if (providers.length > 0 && providers.every(isBlocked)) return path;
    }
    return undefined;
  }
}

/** Finds the paths in dependencies that only filelists could provide. Asks once for each id. */
class DependencyPaths {
  readonly #pool: Pool;
  readonly #known = new Map<Id, string | undefined>();

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  find(dependencies: readonly Id[]): string | undefined {
    for (const dependency of dependencies) {
      const path = this.#path(dependency, 0);
      if (path !== undefined) return path;
    }
    return undefined;
  }

  #path(dependency: Id, depth: number): string | undefined {
    if (depth > 100) return undefined;
    if (this.#known.has(dependency)) return this.#known.get(dependency);
    const path = this.#lookUp(dependency, depth);
    this.#known.set(dependency, path);
    return path;
  }

  #lookUp(dependency: Id, depth: number): string | undefined {
    const pool = this.#pool;
    const relation = readRelation(readPool(pool.address), dependency);
    if (relation !== undefined) {
      return this.#path(relation.name, depth + 1) ?? this.#path(relation.evr, depth + 1);
    }
    const text = pool.library.pool.idToString(pool.address, dependency);
    const unlisted = text.startsWith('/') && !isPrimaryFile(text);
    return unlisted && pool.providers(dependency).length === 0 ? text : undefined;
  }
}
