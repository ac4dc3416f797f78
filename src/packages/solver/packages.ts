import { isPrimaryFile } from '../repository/metadata/repomd.ts';
import {
  isCompatible,
  readArray,
  readPaths,
  readPool,
  readSolvables,
  type SolvableRecord,
  solvableAddress,
} from './libsolv/layout.ts';
import type { Id } from './libsolv/libsolv.ts';
import { type Pool, type PoolRepository, REQUEST_PREFIX } from './libsolv/pool.ts';

export interface Package extends SolvableRecord {
  readonly repository: PoolRepository;
}

export class Packages {
  readonly all: readonly Package[];
  readonly pool: Pool;
  readonly #texts = new Map<Id, string>();
  #obsoleting: Map<Id, { readonly by: Package; readonly dependency: Id }[]> | undefined;

  constructor(pool: Pool) {
    this.pool = pool;
    const fields = readPool(pool.address);
    this.all = pool.repositories.flatMap((repository) =>
      readSolvables(fields, repository.address)
        .filter(({ arch }) => isCompatible(fields, arch))
        .map((record) => ({ ...record, repository })),
    );
  }

  text(id: Id): string {
    let text = this.#texts.get(id);
    if (text === undefined) {
      text = this.pool.library.pool.idToString(this.pool.address, id);
      this.#texts.set(id, text);
    }
    return text;
  }

  nevra({ name, evr, arch }: Package): string {
    return `${this.text(name)}-${this.text(evr)}.${this.text(arch)}`;
  }

  enabled(packages: readonly Package[]): Package[] {
    return packages.filter(({ id }) => this.pool.isEnabled(id));
  }

  obsoleting(targets: readonly Package[]): Package[] {
    this.#obsoleting ??= this.#readObsoletes();
    const { pool } = this.pool.library;
    const { address } = this.pool;
    const fields = readPool(address);
    const found = new Set<Package>();
    for (const { id, name } of targets) {
      const solvable = solvableAddress(fields, id);
      for (const { by, dependency } of this.#obsoleting.get(name) ?? []) {
        const matches =
          dependency === name || pool.matchesRelation(address, solvable, dependency) !== 0;
        if (matches) found.add(by);
      }
    }
    return [...found];
  }

  latest(packages: readonly Package[]): Package[] {
    const best = new Map<string, Package[]>();
    for (const candidate of packages) {
      const key = `${candidate.name} ${candidate.arch}`;
      const [rival] = best.get(key) ?? [];
      const order = rival === undefined ? 1 : this.#compare(candidate, rival);
      if (order > 0) best.set(key, [candidate]);
      else if (order === 0) best.get(key)?.push(candidate);
    }
    return [...best.values()].flat();
  }

  #compare(a: Package, b: Package): number {
    const { pool } = this.pool.library;
    return (
      b.repository.priority - a.repository.priority ||
      pool.compareVersions(this.pool.address, a.evr, b.evr, 0)
    );
  }

  #readObsoletes() {
    const all = this.all
      .filter(({ obsoletes }) => obsoletes !== 0)
      .flatMap((by) =>
        readArray(by.repository.address, by.obsoletes).map((dependency) => ({ by, dependency })),
      );
    return Map.groupBy(all, ({ dependency }) => this.pool.dependencyName(dependency));
  }
}

export function unlistedPath(text: string): string | undefined {
  const paths = text.match(/(?<![\w/.:])\/[^\s(),]+/g) ?? [];
  return paths.find((path) => !isPrimaryFile(path));
}

/** libsolv compares each thing that a package provides with all before it. */
const PATHS_OF_ONE = 500;

/**
 * Stands in for the file lists that are not there: packages that have the files which dependencies name and only
 * file lists could know. What needs such a file can be chosen then, as it could be with file lists; a solution that
 * does without these packages needs none of them.
 */
export class MissingFiles {
  readonly #pool: Pool;
  readonly #paths: ReadonlySet<Id>;
  readonly #standIns = new Set<Id>();

  /** Must follow {@link Pool.prepare}, and precede all questions. */
  constructor(pool: Pool, repository: PoolRepository) {
    this.#pool = pool;
    const { idToString } = pool.library.pool;
    const unlisted = readPaths(pool.address).filter(
      (id) => !isPrimaryFile(idToString(pool.address, id)) && pool.providers(id).length === 0,
    );
    this.#paths = new Set(unlisted);
    for (let at = 0; at < unlisted.length; at += PATHS_OF_ONE) {
      const name = `${REQUEST_PREFIX} files ${at}`;
      const provides = unlisted.slice(at, at + PATHS_OF_ONE);
      this.#standIns.add(
        pool.addSolvable(repository, { name, evr: '0', arch: 'noarch', provides }),
      );
    }
    if (unlisted.length > 0) pool.library.pool.createWhatProvides(pool.address);
  }

  /**
   * Says why a solution might be another one with file lists, or undefined if it would not: a package of it needs
   * or recommends such a file or conflicts with one, or one of `supplementing` is about one.
   */
  because(solution: readonly Id[], supplementing: Iterable<Id>): string | undefined {
    for (const candidate of supplementing) {
      const path = this.#find(candidate, 'supplements');
      if (path !== undefined) return `${this.#pool.nevra(candidate)} is about ${path}`;
    }
    const isAsked = solution.some((solvable) => this.#standIns.has(solvable));
    const asked = isAsked ? ['requires', 'recommends'] : [];
    for (const solvable of solution) {
      for (const what of ['conflicts', ...asked]) {
        const path = this.#find(solvable, what);
        if (path !== undefined) return `${this.#pool.nevra(solvable)}: ${what} ${path}`;
      }
    }
    return isAsked ? 'a file' : undefined;
  }

  #find(solvable: Id, kind: string): string | undefined {
    for (const dependency of this.#pool.array(solvable, `solvable:${kind}`)) {
      const path = this.#path(dependency, 0);
      if (path !== undefined) return path;
    }
    return undefined;
  }

  #path(dependency: Id, depth: number): string | undefined {
    if (depth > 100) return undefined;
    const { address, library } = this.#pool;
    const relation = this.#pool.relation(dependency);
    if (relation !== undefined) {
      return this.#path(relation.name, depth + 1) ?? this.#path(relation.evr, depth + 1);
    }
    return this.#paths.has(dependency) ? library.pool.idToString(address, dependency) : undefined;
  }
}
