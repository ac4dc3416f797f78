import { readdir, stat } from 'node:fs/promises';
import { KilnError } from '../../../errors.ts';
import type { Engine } from '../../../sandbox/open.ts';
import { pruneRecipes } from '../config/write-recipe.ts';
import { rootDirectory, rootFiles } from './record.ts';
import { MockRoot } from './root.ts';

/**
 * Removes roots, and recipes of configurations, that were not used for `maxAge` milliseconds. Roots in use
 * stay. @returns the names of the removed roots.
 */
export async function pruneRoots(engine: Engine, maxAge: number): Promise<string[]> {
  await pruneRecipes(engine.paths, maxAge);
  const removed: string[] = [];
  for (const name of await readdir(engine.paths.roots).catch(() => [])) {
    const record = rootFiles.record(rootDirectory(engine.paths, name));
    const used = await stat(record).catch(() => undefined);
    if (used !== undefined && Date.now() - used.mtimeMs < maxAge) continue;
    try {
      await using root = await MockRoot.lock(engine, name);
      await root.remove();
      removed.push(name);
    } catch (error) {
      if (!(error instanceof KilnError) || error.code !== 'E_MOCK_ROOT_LOCKED') throw error;
    }
  }
  return removed;
}
