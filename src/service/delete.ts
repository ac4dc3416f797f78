import { rename } from 'node:fs/promises';
import { removeTree } from '../kernel/remove-tree.ts';
import type { StatePaths } from '../state/paths.ts';
import { requireStopped } from './stop.ts';
import { lockServices, serviceFiles, sweepServices, workDirectory } from './store.ts';

/**
 * Removes a service with all it has. Throws E_NO_SERVICE, E_SERVICE_RUNS; E_REMOVE when some of its files
 * cannot be removed, which are tried again later.
 */
export async function deleteService(paths: StatePaths, name: string): Promise<void> {
  await using _lock = await lockServices(paths);
  // A service whose file is broken must be deletable as well.
  const files = await serviceFiles(paths, name);
  await requireStopped(name, files);
  const work = await workDirectory(paths, name);
  await rename(files.directory, `${work}/deleted`);
  await removeTree(files.run);
  await removeTree(work);
  await sweepServices(paths);
}
