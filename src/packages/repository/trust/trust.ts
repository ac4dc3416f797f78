import type { SignaturePolicy } from '../../rpm/inspect.ts';
import type { Lock } from '../lock/lock.ts';
import { type KeyRequirement, keysDigest, readKeys } from './keys.ts';

/** The keys that must have signed a repository's packages. */
export interface Trust {
  readonly policy: SignaturePolicy;
  /** Armored public keys; none only if no signature is required. */
  readonly keys: readonly string[];
  /** Names the keys, see {@link keysDigest}. */
  readonly digest: string;
}

/**
 * Reads the trust settings of a repository.
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
 * For each package of a lock, the digest of the keys that must have signed it; null if none need.
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
