import type { Pointer } from './libsolv-types.ts';
import type { Pool } from './pool.ts';

/** solver.h; the same flags as libdnf sets, so that the same packages are chosen. */
const ALLOW_VENDORCHANGE = 3;
const IGNORE_RECOMMENDED = 7;
const BEST_OBEY_POLICY = 12;
const KEEP_ORPHANS = 18;
const YUM_OBSOLETES = 21;

/** Sets up a new solver. */
export function setSolverFlags(pool: Pool, solver: Pointer, recommends: boolean): void {
  const { setFlag } = pool.library.solver;
  for (const flag of [ALLOW_VENDORCHANGE, BEST_OBEY_POLICY, KEEP_ORPHANS, YUM_OBSOLETES]) {
    setFlag(solver, flag, 1);
  }
  setFlag(solver, IGNORE_RECOMMENDED, recommends ? 0 : 1);
}
