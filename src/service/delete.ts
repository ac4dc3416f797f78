import { rename, rm } from 'node:fs/promises';
import type { StatePaths } from '../state/paths.ts';
import { instanceFiles } from './instance-files.ts';
import { requireStopped } from './stop.ts';
import { lockServices, readService, sweepServices, workDirectory } from './store.ts';

/** Removes a service with all it has. Throws E_NO_SERVICE, E_SERVICE_RUNS. */
export async function deleteService(paths: StatePaths, name: string): Promise<void> {
  await using _lock = await lockServices(paths);
  const { files } = await readService(paths, name).catch((error: unknown) => {
    // A service whose file is broken must be deletable as well.
    if (error instanceof Error && 'code' in error && error.code === 'E_NO_SERVICE') throw error;
    return { files: instanceFiles(paths, name) };
  });
  await requireStopped(name, files);
  const work = await workDirectory(paths, name);
  await rename(files.directory, `${work}/deleted`);
  await rm(files.run, { recursive: true, force: true });
  await sweepServices(paths);
}
