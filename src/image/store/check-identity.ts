import { KilnError } from '../../errors.ts';
import type { LockedPackage } from '../../repository/lock.ts';
import type { RpmIdentity } from '../../rpm/package.ts';

/**
 * The lock says what a digest is the package of; a repository cannot pass off another one for it.
 * @throws KilnError E_LOCK_MISMATCH
 */
export function checkIdentity(locked: LockedPackage, found: RpmIdentity): void {
  const same =
    found.name === locked.name &&
    (found.epoch ?? 0) === locked.epoch &&
    found.version === locked.version &&
    found.release === locked.release &&
    found.arch === locked.arch;
  if (same) return;
  throw new KilnError(
    'E_LOCK_MISMATCH',
    `the file of ${locked.nevra} holds ${found.name}-${found.version}-${found.release}.${found.arch}`,
    { hint: 'make the lock anew: its repository is inconsistent' },
  );
}
