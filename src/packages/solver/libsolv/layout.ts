/**
 * The parts of libsolv's structures that have no accessor function. All of it is in the public
 * half of the headers (before `#ifdef LIBSOLV_INTERNAL`), which has not changed within 0.7.
 */
import koffi from 'koffi';
import { KilnError } from '../../../errors.ts';
import type { Pointer } from '../../../host/calls/c-library.ts';
import { DISTTYPE_RPM, type Id, type Libsolv, loadLibsolv } from './libsolv.ts';

const queueType = koffi.struct({
  elements: 'void *',
  count: 'int',
  alloc: 'void *',
  left: 'int',
});

interface QueueFields {
  readonly elements: Pointer;
  readonly count: number;
}

const stringPoolType = koffi.struct({
  strings: 'void *',
  nstrings: 'int',
  stringspace: 'void *',
  sstrings: 'unsigned int',
  stringhashtbl: 'void *',
  stringhashmask: 'unsigned int',
});

const poolType = koffi.struct({
  appdata: 'void *',
  ss: stringPoolType,
  rels: 'void *',
  nrels: 'int',
  repos: 'void *',
  nrepos: 'int',
  urepos: 'int',
  installed: 'void *',
  solvables: 'void *',
  nsolvables: 'int',
  languages: 'void *',
  nlanguages: 'int',
  disttype: 'int',
  id2arch: 'void *',
  id2color: 'void *',
  lastarch: 'int',
  vendormap: queueType,
  vendorclasses: 'void *',
  whatprovides: 'void *',
  whatprovides_rel: 'void *',
  whatprovidesdata: 'void *',
  whatprovidesdataoff: 'unsigned int',
  whatprovidesdataleft: 'int',
  considered: 'void *',
});

const repoType = koffi.struct({
  name: 'void *',
  repoid: 'int',
  appdata: 'void *',
  pool: 'void *',
  start: 'int',
  end: 'int',
  nsolvables: 'int',
  disabled: 'int',
  priority: 'int',
  subpriority: 'int',
  idarraydata: 'void *',
});

const solvableType = koffi.struct({
  name: 'int',
  arch: 'int',
  evr: 'int',
  vendor: 'int',
  repo: 'void *',
  provides: 'unsigned int',
  obsoletes: 'unsigned int',
  conflicts: 'unsigned int',
  requires: 'unsigned int',
  recommends: 'unsigned int',
  suggests: 'unsigned int',
  supplements: 'unsigned int',
  enhances: 'unsigned int',
});

const transactionType = koffi.struct({ pool: 'void *', steps: queueType });

const relationType = koffi.struct({ name: 'int', evr: 'int', flags: 'int' });

/** Addresses are valid until the next call that adds something. */
interface PoolFields {
  readonly id2arch: Pointer | null;
  readonly lastarch: number;
  readonly rels: Pointer;
  readonly urepos: number;
  readonly solvables: Pointer;
  readonly nsolvables: number;
  readonly disttype: number;
}

export function readPool(pool: Pointer): PoolFields {
  return koffi.decode(pool, poolType) as PoolFields;
}

export function checkLayout(library: Libsolv, pool: Pointer): void {
  const fields = readPool(pool);
  // A new pool has the null solvable and the system solvable, and no repository.
  const sane = fields.nsolvables === 2 && fields.urepos === 0 && fields.disttype === DISTTYPE_RPM;
  if (sane && library.version.startsWith('0.7.')) return;
  throw new KilnError(
    'E_SOLVER_MISSING',
    `libsolv ${library.version} is not one that kiln knows (0.7)`,
    { hint: 'install libsolv 0.7 beside it, or a newer kiln' },
  );
}

export function solvableAddress(fields: PoolFields, solvable: Id): Pointer {
  return fields.solvables + BigInt(solvable) * BigInt(koffi.sizeof(solvableType));
}

export function readPaths(pool: Pointer): Id[] {
  const { ss } = koffi.decode(pool, poolType) as {
    ss: { strings: Pointer; nstrings: number; stringspace: Pointer; sstrings: number };
  };
  const offsets = new Uint32Array(koffi.view(ss.strings, ss.nstrings * 4));
  const text = new Uint8Array(koffi.view(ss.stringspace, ss.sstrings));
  const ids: Id[] = [];
  for (const [id, offset] of offsets.entries()) if (text[offset] === 0x2f) ids.push(id);
  return ids;
}

export interface SolvableRecord {
  readonly id: Id;
  readonly name: Id;
  readonly arch: Id;
  readonly evr: Id;
  /** Where in the repository's array what it obsoletes begins; 0: it obsoletes nothing. */
  readonly obsoletes: number;
  readonly supplements: number;
}

/** Every package of `repo`: one look at the memory, since a call for each of 60,000 takes too long. */
export function readSolvables(fields: PoolFields, repo: Pointer): SolvableRecord[] {
  const { start, end } = koffi.decode(repo, repoType) as { start: Id; end: Id };
  if (end <= start) return [];
  const size = koffi.sizeof(solvableType);
  const bytes = Buffer.from(koffi.view(solvableAddress(fields, start), (end - start) * size));
  const at = (key: string) => koffi.offsetof(solvableType, key);
  const [name, arch, evr, owner] = [at('name'), at('arch'), at('evr'), at('repo')];
  const [obsoletes, supplements] = [at('obsoletes'), at('supplements')];
  const records: SolvableRecord[] = [];
  for (let id = start, base = 0; id < end; id++, base += size) {
    // Repositories may lie between one another.
    if (bytes.readBigUInt64LE(base + owner) !== repo) continue;
    records.push({
      id,
      name: bytes.readInt32LE(base + name),
      arch: bytes.readInt32LE(base + arch),
      evr: bytes.readInt32LE(base + evr),
      obsoletes: bytes.readUInt32LE(base + obsoletes),
      supplements: bytes.readUInt32LE(base + supplements),
    });
  }
  return records;
}

export function readArray(repo: Pointer, offset: number): Id[] {
  const { idarraydata } = koffi.decode(repo, repoType) as { idarraydata: Pointer };
  const ids: Id[] = [];
  for (let at = idarraydata + BigInt(offset) * 4n; ; at += 4n) {
    const id = koffi.decode(at, 'int') as Id;
    if (id === 0) return ids;
    ids.push(id);
  }
}

export function isCompatible({ id2arch, lastarch }: PoolFields, arch: Id): boolean {
  if (id2arch === null) return true;
  if (arch > lastarch) return false;
  return (koffi.decode(id2arch + BigInt(arch) * 4n, 'int') as number) !== 0;
}

/** Higher is preferred, the other way round than dnf counts. */
export function setRepoPriority(repo: Pointer, priority: number, subpriority: number): void {
  koffi.encode(repo, koffi.offsetof(repoType, 'priority'), 'int', priority);
  koffi.encode(repo, koffi.offsetof(repoType, 'subpriority'), 'int', subpriority);
}

export function solvableRepo(fields: PoolFields, solvable: Id): Pointer {
  const address = solvableAddress(fields, solvable);
  return koffi.decode(address, koffi.offsetof(solvableType, 'repo'), 'void *') as Pointer;
}

export interface Relation {
  readonly name: Id;
  readonly evr: Id;
  readonly flags: number;
}

export function readRelation(fields: PoolFields, dependency: Id): Relation | undefined {
  if (dependency >= 0) return undefined;
  const index = BigInt(dependency & 0x7fffffff);
  const address = fields.rels + index * BigInt(koffi.sizeof(relationType));
  return koffi.decode(address, relationType) as Relation;
}

/**
 * Lets the solver use only the packages whose bit is set. `bits` must stay reachable as long as
 * the pool is used; so must the buffer that is returned.
 */
export function setConsidered(pool: Pointer, bits: Buffer): Buffer {
  const map = Buffer.alloc(16);
  map.writeBigUInt64LE(koffi.address(bits), 0);
  map.writeInt32LE(bits.length, 8);
  koffi.encode(pool, koffi.offsetof(poolType, 'considered'), 'void *', koffi.address(map));
  return map;
}

export function transactionSteps(transaction: Pointer): Id[] {
  const { steps } = koffi.decode(transaction, transactionType) as { steps: QueueFields };
  return readIds(steps.elements, steps.count);
}

function readIds(address: Pointer, count: number): Id[] {
  if (count === 0) return [];
  return Array.from(new Int32Array(koffi.view(address, count * 4)));
}

export class IdQueue implements Disposable {
  readonly raw: Buffer = Buffer.alloc(koffi.sizeof(queueType));
  readonly #calls: Libsolv['queue'] = loadLibsolv().queue;

  constructor(ids: Iterable<Id> = []) {
    this.#calls.init(this.raw);
    let count = 0;
    for (const id of ids) this.#calls.insert(this.raw, count++, id);
  }

  toArray(): Id[] {
    const { elements, count } = koffi.decode(this.raw, queueType) as QueueFields;
    return readIds(elements, count);
  }

  [Symbol.dispose](): void {
    this.#calls.free(this.raw);
  }
}

export function collectIds(fill: (queue: Buffer) => void): Id[] {
  using queue = new IdQueue();
  fill(queue.raw);
  return queue.toArray();
}
