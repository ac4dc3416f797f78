import { KilnError } from '../errors.ts';
import { readAccounts, readGroups } from '../image/tree/accounts.ts';
import type { ServiceUnit, UnitCondition } from './unit/service-unit.ts';
import type { UnitHost } from './unit-host.ts';

/** Makes what RuntimeDirectory= and its kin ask for, with the owner that the unit runs as. */
export async function makeUnitDirectories(host: UnitHost, unit: ServiceUnit): Promise<void> {
  const { uid, gid } = unitIds(host, unit);
  await host.control.makeDirectories(
    unit.directories.map(({ path, mode, rootOwned }) => ({
      path,
      mode,
      uid: rootOwned ? 0 : uid,
      gid: rootOwned ? 0 : gid,
    })),
  );
}

function unitIds(host: UnitHost, { user = '0', group }: ServiceUnit) {
  const account = readAccounts(host.tree.root).find(
    ({ name, uid }) => name === user || String(uid) === user,
  );
  const wanted = group ?? String(account?.gid ?? 0);
  const gid = readGroups(host.tree.root).find(
    (candidate) => candidate.name === wanted || String(candidate.gid) === wanted,
  )?.gid;
  return { uid: account?.uid ?? 0, gid: gid ?? account?.gid ?? 0 };
}

/**
 * The first condition that does not hold; undefined if all do. Throws E_UNIT_FAILED for an
 * assertion that does not.
 */
export function failedCondition(host: UnitHost, unit: ServiceUnit): string | undefined {
  for (const condition of unit.conditions) {
    if (holds(host, condition) !== condition.negated) continue;
    const { assertion, kind, negated, path } = condition;
    const text = `${assertion ? 'Assert' : 'Condition'}${kind}=${negated ? '!' : ''}${path}`;
    if (!assertion) return text;
    throw new KilnError('E_UNIT_FAILED', `${unit.name}: ${text} does not hold`);
  }
  return undefined;
}

function holds({ tree }: UnitHost, { kind, path }: UnitCondition): boolean {
  const stats = tree.stat(path);
  if (kind === 'PathIsSymbolicLink') return tree.lstat(path)?.isSymbolicLink() === true;
  if (stats === undefined) return false;
  if (kind === 'PathIsDirectory') return stats.isDirectory();
  if (kind === 'FileNotEmpty') return stats.isFile() && stats.size > 0;
  if (kind === 'FileIsExecutable') return stats.isFile() && (stats.mode & 0o111) !== 0;
  if (kind === 'DirectoryNotEmpty') return stats.isDirectory() && tree.list(path).length > 0;
  return true;
}
