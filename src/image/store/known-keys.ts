/** What the keys of repositories are good for, remembered for each set of texts. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { confinedEntry } from '../../confine/entry.ts';
import { takeTrustedKeys } from '../../rpm/check.ts';
import { describeKeys } from '../../rpm/describe-keys.ts';
import type { TrustedKey } from '../../rpm/keyring.ts';
import type { StatePaths } from '../../state/paths.ts';
import { SmallCache } from '../../state/small-cache.ts';
import { span } from '../../trace/trace.ts';

/**
 * What the text of a bundle's entry has in it: names of files that end with a digest of what is in
 * them. Other code may judge keys in another way without another entry.
 */
const NAMES_DIGESTS = /-[\w-]{8}\.cjs/;

/** Sets of keys, of as many repositories as somebody may use. */
const KEPT = 200;

/**
 * Keys as plain data, so that nobody who checks packages has to load a library for them; null where
 * they can only be used with it.
 * @throws KilnError E_KEYRING, E_CONFINE_…; the signal's reason.
 */
export async function knownKeys(
  paths: StatePaths,
  texts: readonly string[],
  signal?: AbortSignal,
): Promise<readonly TrustedKey[] | null> {
  using _ = span('keys');
  const cache = new SmallCache(join(paths.cache, 'keys'), KEPT);
  const code = await readFile(confinedEntry(), 'utf8');
  const name = `${createHash('sha256')
    .update(JSON.stringify([code, texts]))
    .digest('hex')}.json`;
  try {
    return takeTrustedKeys(JSON.parse((await cache.read(name)) ?? ''));
  } catch {
    // Not there, or damaged.
  }
  const keys = await describeKeys(texts, signal);
  if (NAMES_DIGESTS.test(code)) await cache.write(name, JSON.stringify(keys));
  return keys;
}
