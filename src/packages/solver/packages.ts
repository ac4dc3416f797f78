/** The packages of a pool by what they are called, in dnf's way of looking for them. */
import {
  isCompatible,
  readArray,
  readPool,
  readSolvables,
  type SolvableRecord,
  solvableAddress,
} from './libsolv/layout.ts';
import type { Id } from './libsolv/libsolv-types.ts';
import type { Pool, PoolRepository } from './libsolv/pool.ts';

/** One package that a repository has. */
export interface Package extends SolvableRecord {
  readonly repository: PoolRepository;
}

/** Every package that this architecture can install, read once after {@link Pool.prepare}. */
export class Packages {
  readonly all: readonly Package[];
  readonly #pool: Pool;
  readonly #texts = new Map<Id, string>();
  #obsoleting: Map<Id, { readonly by: Package; readonly dependency: Id }[]> | undefined;

  constructor(pool: Pool) {
    this.#pool = pool;
    const fields = readPool(pool.address);
    this.all = pool.repositories.flatMap((repository) =>
      readSolvables(fields, repository.address)
        .filter(({ arch }) => isCompatible(fields, arch))
        .map((record) => ({ ...record, repository })),
    );
  }

  /** The string that an id stands for. */
  text(id: Id): string {
    let text = this.#texts.get(id);
    if (text === undefined) {
      text = this.#pool.library.pool.idToString(this.#pool.address, id);
      this.#texts.set(id, text);
    }
    return text;
  }

  /** name-[epoch:]version-release.arch; epoch 0 is left out. */
  nevra({ name, evr, arch }: Package): string {
    return `${this.text(name)}-${this.text(evr)}.${this.text(arch)}`;
  }

  /** Those of `packages` that nothing excludes. */
  enabled(packages: readonly Package[]): Package[] {
    return packages.filter(({ id }) => this.#pool.isEnabled(id));
  }

  /** Packages of which an Obsoletes means the name and version of one of `targets`, as rpm reads it. */
  obsoleting(targets: readonly Package[]): Package[] {
    this.#obsoleting ??= this.#readObsoletes();
    const { pool } = this.#pool.library;
    const { address } = this.#pool;
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

  /** Of each name and architecture the newest in the most preferred repository that has any. */
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
    const { pool } = this.#pool.library;
    return (
      b.repository.priority - a.repository.priority ||
      pool.compareVersions(this.#pool.address, a.evr, b.evr, 0)
    );
  }

  #readObsoletes() {
    const map = new Map<Id, { by: Package; dependency: Id }[]>();
    for (const by of this.all) {
      if (by.obsoletes === 0) continue;
      for (const dependency of readArray(by.repository.address, by.obsoletes)) {
        const name = this.#pool.dependencyName(dependency);
        const list = map.get(name) ?? [];
        list.push({ by, dependency });
        map.set(name, list);
      }
    }
    return map;
  }
}
