import { copyFile, rm } from 'node:fs/promises';
import { copyTree } from '../image/tree/clone.ts';
import type { StatePaths } from '../state/paths.ts';
import { giveIdentity, publishService, refuseExisting } from './create.ts';
import { filesIn } from './instance-files.ts';
import { requireStopped } from './stop.ts';
import {
  changeDefinition,
  checkServiceName,
  lockServices,
  readService,
  sweepServices,
  workDirectory,
  writeImageId,
} from './store.ts';
import { copyVar } from './var-volume.ts';

/** What is different in a clone. */
export interface CloneChanges {
  /** `[ADDRESS:]HOSTPORT:PORT`; without any the clone publishes nothing, since its model has the ports. */
  readonly publish: readonly string[];
}

/**
 * Makes a service like another one that does not run, with copies of its /etc and /var (blocks are
 * shared where the file system can), its own machine id and host name. It appears whole or not at
 * all. Throws E_NO_SERVICE, E_SERVICE_EXISTS, E_SERVICE_RUNS.
 */
export async function cloneService(
  paths: StatePaths,
  from: string,
  name: string,
  changes: CloneChanges,
): Promise<void> {
  checkServiceName(name);
  await using _lock = await lockServices(paths);
  const model = await readService(paths, from);
  await refuseExisting(paths, name);
  // What writes meanwhile would be copied half written.
  await requireStopped(from, model.files);
  await sweepServices(paths);
  const work = await workDirectory(paths, name);
  try {
    const files = filesIn(work, '');
    copyTree(model.files.etc, files.etc);
    copyVar(model.files, files);
    giveIdentity(files.etc, name);
    await writeImageId(files.image, model.image);
    await copyFile(model.files.definition, files.definition);
    await changeDefinition(files.definition, (document) => {
      document.delete('hostname');
      document.delete('publish');
      if (changes.publish.length > 0) document.set('publish', [...changes.publish]);
    });
    await publishService(paths, name, work);
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    throw error;
  }
}
