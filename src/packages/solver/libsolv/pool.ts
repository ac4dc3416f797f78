import { KilnError } from '../../../errors.ts';
import type { Pointer } from '../../../host/calls/c-library.ts';
import type { SolvedPackage } from '../solve-output.ts';
import {
  checkLayout,
  collectIds,
  IdQueue,
  type Relation,
  readPool,
  readRelation,
  setConsidered,
  setRepoPriority,
  solvableAddress,
  solvableRepo,
} from './layout.ts';
import {
  DISTTYPE_RPM,
  type Id,
  type Libsolv,
  loadLibsolv,
  POOL_FLAG_WHATPROVIDESWITHDISABLED,
} from './libsolv.ts';

/** pool.h; the last are its REL_GT, REL_EQ and REL_LT. */
const REL_OR = 17;
const RELATION_FLAGS = { '>': 1, '=': 2, '<': 4 } as const;

/** solver.h: the job's argument is a dependency, and means its providers. */
const SOLVER_SOLVABLE_PROVIDES = 0x03;

/** The names of packages that stand for what was requested begin so; no real name has a space. */
export const REQUEST_PREFIX = 'this request:';

export interface PoolRepository {
  readonly id: string;
  /** 1 is preferred to 99. */
  readonly priority: number;
  /** Among equal priorities less is preferred. */
  readonly cost: number;
  readonly address: Pointer;
}

interface MadeSolvable {
  readonly name: string;
  readonly evr: string;
  readonly arch: string;
  readonly provides?: readonly Id[];
  readonly requires?: readonly Id[];
  readonly conflicts?: readonly Id[];
}

/** All packages of all repositories. Made once in a child that ends afterwards, so nothing is ever freed. */
export class Pool {
  readonly address: Pointer;
  readonly library: Libsolv;
  readonly #repositories: PoolRepository[] = [];
  readonly #kept: Buffer[] = [];
  #considered: Buffer | undefined;

  constructor(arch: string, multilib: boolean) {
    this.library = loadLibsolv();
    const { pool } = this.library;
    this.address = pool.create();
    // Debian's libsolv would compare versions as dpkg does.
    pool.setDistributionType(this.address, DISTTYPE_RPM);
    checkLayout(this.library, this.address);
    pool.setFlag(this.address, POOL_FLAG_WHATPROVIDESWITHDISABLED, 1);
    const policy = multilib ? undefined : nativePolicy(arch);
    if (policy === undefined) pool.setArch(this.address, arch);
    else pool.setArchPolicy(this.address, policy);
  }

  get repositories(): readonly PoolRepository[] {
    return this.#repositories;
  }

  addRepository(id: string, priority = 99, cost = 1000): PoolRepository {
    const repository = { id, priority, cost, address: this.library.repo.create(this.address, id) };
    setRepoPriority(repository.address, -priority, -cost);
    this.#repositories.push(repository);
    return repository;
  }

  load(repository: PoolRepository, fd: number, flags = 0): boolean {
    const stream = this.library.fdopen(fd, 'r');
    if (stream === null) return false;
    // Not closed: big parts are read when they are needed.
    return this.library.repo.addSolv(repository.address, stream, flags) === 0;
  }

  /** Must follow the last change to repositories and precede every question. */
  prepare(): void {
    this.library.pool.addFileProvides(this.address);
    this.library.pool.createWhatProvides(this.address);
  }

  addRequest(repository: PoolRepository, dependency: string): Id {
    return this.addSolvable(repository, {
      name: `${REQUEST_PREFIX} ${dependency}`,
      evr: '0',
      arch: 'noarch',
      requires: [this.dependency(dependency)],
    });
  }

  addSolvable(repository: PoolRepository, made: MadeSolvable): Id {
    const { repo } = this.library;
    const { address } = repository;
    const solvable = repo.addSolvable(address);
    for (const key of ['name', 'arch', 'evr'] as const) {
      repo.setId(address, solvable, this.id(`solvable:${key}`), this.id(made[key]));
    }
    for (const key of ['provides', 'requires', 'conflicts'] as const) {
      for (const dependency of made[key] ?? []) {
        repo.addDependency(address, solvable, this.id(`solvable:${key}`), dependency, 0);
      }
    }
    return solvable;
  }

  anyOf(dependencies: readonly Id[]): Id {
    const { pool } = this.library;
    return dependencies.reduce((all, one) => pool.relationToId(this.address, all, one, REL_OR, 1));
  }

  dependency(text: string): Id {
    const parsed = this.#parseDependency(text);
    if (parsed !== 0) return parsed;
    throw new KilnError('E_SOLVER_REQUEST', `'${text}' is not a dependency that rpm understands`, {
      hint: 'rich dependencies look like (a or (b >= 2 and c))',
    });
  }

  #parseDependency(text: string): Id {
    const { pool, parseRichDependency } = this.library;
    if (text.startsWith('(')) return parseRichDependency(this.address, text);
    const match = /^(\S+)(?:\s+(<=|>=|<|>|=)\s+(\S+))?$/.exec(text.trim());
    if (match === null) return 0;
    const [, name = '', operator, version] = match;
    if (operator === undefined || version === undefined) return this.id(name);
    const flags = [...operator].reduce((sum, sign) => sum | RELATION_FLAGS[sign as '<'], 0);
    return pool.relationToId(this.address, this.id(name), this.id(version), flags, 1);
  }

  providers(dependency: Id): Id[] {
    const { jobSolvables } = this.library.pool;
    return collectIds((queue) =>
      jobSolvables(this.address, queue, SOLVER_SOLVABLE_PROVIDES, dependency),
    );
  }

  dependencyName(dependency: Id): Id {
    return this.relation(dependency)?.name ?? dependency;
  }

  relation(dependency: Id): Relation | undefined {
    return readRelation(readPool(this.address), dependency);
  }

  /** The number of a string; every known one has the same number in every pool. */
  id(text: string): Id {
    return this.library.pool.stringToId(this.address, text, 1);
  }

  select(name: string, flags: number): Id[] {
    const { pool } = this.library;
    using selection = new IdQueue();
    if (pool.select(this.address, selection.raw, name, flags) === 0) return [];
    return collectIds((found) => pool.selectedSolvables(this.address, selection.raw, found));
  }

  disable(solvables: Iterable<Id>): void {
    if (this.#considered === undefined) {
      this.#considered = Buffer.alloc(Math.ceil(readPool(this.address).nsolvables / 8) + 1, 0xff);
      this.#kept.push(this.#considered, setConsidered(this.address, this.#considered));
    }
    for (const id of solvables) {
      const byte = this.#considered[id >> 3] ?? 0;
      this.#considered[id >> 3] = byte & ~(1 << (id & 7));
    }
  }

  isEnabled(solvable: Id): boolean {
    const bits = this.#considered;
    return bits === undefined || ((bits[solvable >> 3] ?? 0) & (1 << (solvable & 7))) !== 0;
  }

  oneOf(solvables: readonly Id[]): Id {
    using queue = new IdQueue(solvables);
    return this.library.pool.internSolvables(this.address, queue.raw);
  }

  array(solvable: Id, key: string): Id[] {
    const { pool } = this.library;
    return collectIds((queue) => pool.lookupArray(this.address, solvable, this.id(key), queue));
  }

  nevra(solvable: Id): string {
    const address = solvableAddress(readPool(this.address), solvable);
    return this.library.pool.solvableToString(this.address, address);
  }

  describe(solvable: Id): SolvedPackage {
    const { pool } = this.library;
    const fields = readPool(this.address);
    const text = (key: string) =>
      pool.idToString(this.address, pool.lookupId(this.address, solvable, this.id(key)));
    const type: [Id] = [0];
    const key = this.id('solvable:checksum');
    const sum = pool.lookupChecksum(this.address, solvable, key, type) ?? '';
    const algorithm = pool.idToString(this.address, type[0]).replace('repokey:type:', '');
    const owner = solvableRepo(fields, solvable);
    const address = solvableAddress(fields, solvable);
    return {
      nevra: pool.solvableToString(this.address, address),
      name: text('solvable:name'),
      evr: text('solvable:evr'),
      arch: text('solvable:arch'),
      digest: `${algorithm}:${sum}`,
      size: Number(pool.lookupNumber(this.address, solvable, this.id('solvable:downloadsize'), 0)),
      location: pool.location(address, null) ?? '',
      base: pool.lookupString(this.address, solvable, this.id('solvable:mediabase')) ?? '',
      repository: this.#repositories.find((known) => known.address === owner)?.id ?? '',
    };
  }
}

/**
 * libsolv's policy for packages made for this architecture (and noarch) only, where its own would
 * add a 32-bit one; undefined where that adds none.
 */
function nativePolicy(arch: string): string | undefined {
  const level = /^x86_64(?:_v([2-4]))?$/.exec(arch);
  if (level === null) return undefined;
  const names = ['x86_64'];
  for (let version = 2; version <= Number(level[1] ?? 1); version++) {
    names.unshift(`x86_64_v${version}`);
  }
  return names.join(':');
}
