import { copyFile } from 'node:fs/promises';
import { copyTree } from '../image/tree/clone.ts';
import { removeTree } from '../kernel/remove-tree.ts';
import type { StatePaths } from '../state/paths.ts';
import { giveIdentity, publishService, refuseExisting } from './create.ts';
import type { ServiceFile } from './definition.ts';
import { changeDefinition } from './definition-file.ts';
import { filesIn } from './instance-files.ts';
import { requireStopped } from './stop.ts';
import {
  checkServiceName,
  knownImage,
  lockServices,
  readService,
  sweepServices,
  workDirectory,
  writeImageId,
} from './store.ts';
import { copyVar } from './var-volume.ts';

/** What is different in a clone. */
export type CloneChanges = Pick<ServiceFile, 'publish' | 'network'>;

/** What only one of two services can have. */
const UNIQUE = [
  ['publish'],
  ['network', 'address'],
  ['network', 'gateway'],
  ['network', 'mac'],
] as const;

/**
 * Makes a service like another one that does not run, with copies of its /etc and /var (blocks are
 * shared where the file system can), its own machine id and host name. What only one of them can have
 * it has not: ports, a fixed address, a MAC. It appears whole or not at all. Returns the keys of what
 * its model has and it has not. Throws E_NO_SERVICE, E_SERVICE_EXISTS, E_SERVICE_RUNS.
 */
export async function cloneService(
  paths: StatePaths,
  from: string,
  name: string,
  changes: CloneChanges,
): Promise<string[]> {
  checkServiceName(name);
  await using _lock = await lockServices(paths);
  const model = await readService(paths, from);
  const image = knownImage(model);
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
    await writeImageId(files.image, image);
    await copyFile(model.files.definition, files.definition);
    const left: string[] = [];
    const changed = await changeDefinition(files.definition, (document) => {
      document.delete('hostname');
      // With a fixed address goes that nothing else is to give it one.
      if (document.hasIn(['network', 'address'])) document.deleteIn(['network', 'dhcp']);
      for (const path of UNIQUE.filter((path) => document.hasIn(path))) {
        document.deleteIn(path);
        if (changes[path[0]] === undefined) left.push(path.join('.'));
      }
      for (const key of ['publish', 'network'] as const) {
        if (changes[key] !== undefined) document.set(key, changes[key]);
      }
    });
    await changed.store();
    await publishService(paths, name, work);
    return left;
  } catch (error) {
    await removeTree(work);
    throw error;
  }
}
