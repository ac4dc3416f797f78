/** Keyrings as plain data: the parent's side. */
import { runConfined } from '../confine/run.ts';
import { takeTrustedKeys } from './check.ts';
import type { TrustedKey } from './keyring.ts';

const LIMITS = { memory: 1 << 30, cpuSeconds: 30, wallMs: 60_000, fileSize: 0 };

/**
 * The keys of armored texts, for the check of many packages; null if any of them is no RSA key, for
 * which the library is needed each time.
 * @throws KilnError E_KEYRING, E_CONFINE_…; the signal's reason.
 */
export async function describeKeys(
  texts: readonly string[],
  signal?: AbortSignal,
): Promise<readonly TrustedKey[] | null> {
  let described: readonly TrustedKey[] | null = null;
  const answers = runConfined({
    task: 'rpm-keys',
    input: texts,
    validate: takeTrustedKeys,
    limits: LIMITS,
    signal,
  });
  for await (const answer of answers) described = answer;
  return described;
}
