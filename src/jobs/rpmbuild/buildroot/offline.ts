import { existsSync } from 'node:fs';
import { KilnError } from '../../../errors.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { Cache } from '../../../packages/repository/cache.ts';
import type { Lock } from '../../../packages/repository/lock/lock.ts';

/**
 * Makes sure that an image can be made of a lock without a network.
 * @throws KilnError E_BUILD_OFFLINE with what is missing
 */
export function assertCached(paths: StatePaths, lock: Lock): void {
  const cache = new Cache(paths);
  const local = new Set(
    lock.repositories.filter(({ source }) => source.kind === 'directory').map(({ id }) => id),
  );
  const missing = lock.packages.filter(
    ({ repository, location, digest }) =>
      !(local.has(repository) && !/^https?:/.test(location)) && !existsSync(cache.object(digest)),
  );
  const [first] = missing;
  if (first === undefined) return;
  throw new KilnError(
    'E_BUILD_OFFLINE',
    `${missing.length} packages are not on this machine, ${first.nevra} is the first`,
    {
      hint: 'build once without --offline: what is downloaded is kept',
      details: { missing: missing.map(({ nevra }) => nevra) },
    },
  );
}
