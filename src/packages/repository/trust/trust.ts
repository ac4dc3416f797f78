import type { SignaturePolicy } from '../../rpm/inspect.ts';
import type { Lock } from '../lock/lock.ts';
import { type KeyRequirement, keysDigest, readKeys } from './keys.ts';

/** What a repository's packages must be signed by. */
export interface Trust {
  readonly policy: SignaturePolicy;
  /** Armored public keys; none only where the policy requires none. */
  readonly keys: readonly string[];
  /** Names the keys, see {@link keysDigest}. */
  readonly digest: string;
}

/**
 * Reads what a repository's packages must be signed by.
 * @throws KilnError E_KEY_MISSING
 */
export async function readTrust(
  repository: KeyRequirement & { readonly gpgcheck: boolean },
): Promise<Trust> {
  const keys = await readKeys(repository);
  const policy = repository.gpgcheck ? 'require' : 'allow-unsigned';
  return { policy, keys, digest: keysDigest(keys) };
}

/**
 * For each package of a lock the digest of the keys it must be signed by, null where it need not be.
 * @throws KilnError E_KEY_MISSING
 */
export async function requiredKeys(
  lock: Pick<Lock, 'repositories' | 'packages'>,
): Promise<(string | null)[]> {
  const required = new Map<string, string>();
  for (const repository of lock.repositories.filter(({ gpgcheck }) => gpgcheck)) {
    required.set(repository.id, (await readTrust(repository)).digest);
  }
  return lock.packages.map(({ repository }) => required.get(repository) ?? null);
}
