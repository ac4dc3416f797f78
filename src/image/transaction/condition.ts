import { compareVersions, parseEvr } from '../../packages/rpm/dependency.ts';
import type { RpmDependency } from '../../packages/rpm/package.ts';

/**
 * Whether a package's provide meets a trigger's condition: the two ranges of versions overlap (rpmdsCompare and
 * rpmverOverlap in rpm's lib/). A side without a version meets everything.
 */
export function meetsCondition(provided: RpmDependency, condition: RpmDependency): boolean {
  if (provided.name !== condition.name) return false;
  const [a, b] = [provided.operator, condition.operator];
  if (a === '' || b === '' || provided.version === '' || condition.version === '') return true;
  const order = compareWhereGiven(provided.version, condition.version);
  if (order < 0) return a.includes('>') || b.includes('<');
  if (order > 0) return a.includes('<') || b.includes('>');
  return ['=', '<', '>'].some((sign) => a.includes(sign) && b.includes(sign));
}

/** Compares `[epoch:]version[-release]`; releases count only if both have one. */
function compareWhereGiven(one: string, two: string): number {
  const a = parseEvr(one);
  const b = parseEvr(two);
  const epochs = (a.epoch ?? 0) - (b.epoch ?? 0);
  if (epochs !== 0) return epochs;
  const versions = compareVersions(a.version, b.version);
  if (versions !== 0 || a.release === '' || b.release === '') return versions;
  return compareVersions(a.release, b.release);
}
