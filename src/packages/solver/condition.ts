/** Whether a rich request such as `(a if b)` asks for anything. */
import { readPool, readRelation } from './libsolv/layout.ts';
import type { Id } from './libsolv/libsolv-types.ts';
import type { Pool } from './libsolv/pool.ts';

/** pool.h */
const REL_AND = 16;
const REL_OR = 17;
const REL_COND = 22;
const REL_ELSE = 26;

/** rpm's parser lets less through. */
const MAX_DEPTH = 64;

/** Whether `dependency` is a condition that lets nothing of it be installed, with these packages. */
export function isIdle(pool: Pool, dependency: Id, chosen: ReadonlySet<Id>): boolean {
  const relation = readRelation(readPool(pool.address), dependency);
  if (relation === undefined) return false;
  const { flags, evr } = relation;
  if (flags !== REL_COND) return false;
  if (readRelation(readPool(pool.address), evr)?.flags === REL_ELSE) return false;
  return !isMet(pool, evr, chosen, 0);
}

function isMet(pool: Pool, dependency: Id, chosen: ReadonlySet<Id>, depth: number): boolean {
  const relation = readRelation(readPool(pool.address), dependency);
  if (relation !== undefined && depth < MAX_DEPTH) {
    const sides = [relation.name, relation.evr];
    const met = (side: Id) => isMet(pool, side, chosen, depth + 1);
    if (relation.flags === REL_AND) return sides.every(met);
    if (relation.flags === REL_OR) return sides.some(met);
  }
  return pool.providers(dependency).some((id) => chosen.has(id));
}
