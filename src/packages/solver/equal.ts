import type { Package, Packages } from './packages.ts';

/** libsolv makes a rule for each two packages of one name: 50,000 equal ones took all memory. */
const MOST_EQUAL = 20;

/**
 * Disables packages that their repository has often, by name, version and architecture, but for the first ones, of
 * which the solver takes the first anyway.
 * @returns what to tell about it
 */
export function leaveOutEqual(packages: Packages): string[] {
  const warnings: string[] = [];
  for (const named of Map.groupBy(packages.all, ({ name }) => name).values()) {
    if (named.length <= MOST_EQUAL) continue;
    for (const equal of Map.groupBy(named, identity).values()) {
      if (equal.length <= MOST_EQUAL) continue;
      packages.pool.disable(equal.slice(MOST_EQUAL).map(({ id }) => id));
      const first = equal[0]!;
      const what = `repository ${first.repository.id} has ${packages.nevra(first)}`;
      warnings.push(`${what} ${equal.length} times: only the first ${MOST_EQUAL} count`);
    }
  }
  return warnings;
}

function identity({ repository, evr, arch }: Package): string {
  return `${repository.address} ${evr} ${arch}`;
}
