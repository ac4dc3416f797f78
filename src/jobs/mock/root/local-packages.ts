import { existsSync, realpathSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import type { Repository } from '../../../packages/repository/configuration.ts';
import { localRepository } from '../../../packages/repository/local-repository.ts';
import type { PooledPackage } from '../../../packages/repository/publish/pool.ts';
import { publishRepository } from '../../../packages/repository/publish/snapshot.ts';
import type { MockRoot } from './root.ts';

/**
 * Packages of a root that its repositories lack: given as files, or from an `--addrepo`. They are kept with the
 * root, so that later requests can be solved.
 */
function directoryOf(root: MockRoot): string {
  return join(root.directory, 'local');
}

/** The repository of a root's own packages; undefined if there is none. */
export function ownRepository(root: MockRoot): Repository | undefined {
  const current = join(directoryOf(root), 'current');
  if (!existsSync(current)) return undefined;
  return localRepository('kiln-mock-root', realpathSync(current));
}

/**
 * Adds package files to a root's own repository, in place of older ones. @returns its content. @throws what
 * {@link publishRepository} throws for files that are not packages.
 */
export async function addOwnPackages(
  root: MockRoot,
  files: readonly string[],
  signal?: AbortSignal,
): Promise<readonly PooledPackage[]> {
  const directory = directoryOf(root);
  const current = join(directory, 'current');
  const names = (await readdir(current).catch(() => [])).filter((name) => name.endsWith('.rpm'));
  const publish = async (without: ReadonlySet<string>) => {
    const before = names.filter((name) => !without.has(name)).map((name) => join(current, name));
    const all = [...before, ...files].map((path) => ({ path }));
    await using snapshot = await publishRepository(directory, all, { signal });
    return snapshot.packages;
  };
  const without = new Set<string>();
  for (;;) {
    try {
      return await publish(without);
    } catch (error) {
      const location = error instanceof KilnError ? error.details?.location : undefined;
      if (typeof location !== 'string' || !names.includes(location) || without.has(location)) {
        throw error;
      }
      without.add(location);
    }
  }
}
