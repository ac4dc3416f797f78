import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync } from 'node:fs';
import { rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import type { LeasedImage } from '../image/store/images.ts';
import { copyTree } from '../image/tree/clone.ts';
import { syncFileSystem } from '../kernel/descriptor.ts';
import { removeTree } from '../kernel/remove-tree.ts';
import type { StatePaths } from '../state/paths.ts';
import { bootCommand } from './boot/system-files.ts';
import { checkMounts } from './check-mounts.ts';
import type { ServiceFile } from './definition.ts';
import { checkDefinition, writeDefinition } from './definition-file.ts';
import { filesIn, type InstanceFiles, instanceFiles } from './instance-files.ts';
import { mergeTrees } from './merge-trees.ts';
import { type OwnedPaths, ownersOf } from './owned-paths.ts';
import { replaceFileIn } from './replace-file.ts';
import { serviceUnits } from './service-units.ts';
import {
  checkServiceName,
  lockServices,
  sweepServices,
  workDirectory,
  writeImageId,
} from './store.ts';
import { Tree } from './tree.ts';
import { treeEntries } from './tree-entries.ts';
import type { ServiceUnit } from './unit/service-unit.ts';
import { moveVarToImage } from './var-volume.ts';

/** A service that was made. */
export interface CreatedService {
  readonly files: InstanceFiles;
  readonly units: readonly ServiceUnit[];
  /** The packages that the units belong to, and what of /etc and /var is theirs. */
  readonly owners: readonly OwnedPaths[];
}

/** How a service's private directories begin. */
export interface CreateOptions {
  /** With the files that the image has in the owners' /var; else their folders are there, empty. */
  readonly copy: boolean;
  /** Bytes of an ext4 image that holds /var, instead of a directory. */
  readonly imageSize?: number;
}

/**
 * Makes a service of an image: its own /etc and /var, its own machine id and host name. It appears
 * whole or not at all. Throws E_SERVICE_NAME, E_SERVICE_EXISTS, E_UNIT, E_NO_SYSTEMD, E_RECIPE,
 * E_NO_PACKAGE, E_BIND.
 */
export async function createService(
  paths: StatePaths,
  name: string,
  file: ServiceFile,
  image: LeasedImage,
  options: CreateOptions,
): Promise<CreatedService> {
  checkServiceName(name);
  const definition = checkDefinition(name, file);
  checkMounts(paths, definition);
  await using _lock = await lockServices(paths);
  await refuseExisting(paths, name);
  await sweepServices(paths);
  const work = await workDirectory(paths, name);
  try {
    const files = filesIn(work, '');
    const hostname = definition.hostname ?? name;
    using tree = Tree.open(image.tree);
    if (definition.boot) bootCommand(tree);
    const units = serviceUnits(tree, definition, { hostname, machineId: '' });
    copyTree(join(image.tree, 'etc'), files.etc);
    copyTree(join(image.tree, 'var'), files.var);
    const { packages } = definition;
    const owners = await ownersOf(paths, image.manifest.id, tree, { units, packages });
    if (!options.copy) emptyOwned(files.var, owners);
    if (options.imageSize !== undefined) await moveVarToImage(files, options.imageSize);
    giveIdentity(files.etc, hostname);
    await writeImageId(files.image, image.manifest.id);
    await writeDefinition(files.definition, file);
    await publishService(paths, name, work);
    return { files: instanceFiles(paths, name), units, owners };
  } catch (error) {
    await removeTree(work);
    throw error;
  }
}

/** Takes the files out of the folders below /var that the owners have to themselves. */
function emptyOwned(varDirectory: string, owners: readonly OwnedPaths[]): void {
  const own = owners
    .flatMap((owner) => owner.paths)
    .filter((path) => path.startsWith('/var/'))
    .map((path) => path.slice('/var/'.length));
  const removed = [...treeEntries(varDirectory)].filter(
    ([path, { kind }]) => kind === 'file' && own.some((top) => path.startsWith(`${top}/`)),
  );
  const actions = removed.map(([path]) => ({ do: 'remove', path }) as const);
  mergeTrees(varDirectory, varDirectory, actions, new Map());
}

/** Throws E_SERVICE_EXISTS. */
export async function refuseExisting(paths: StatePaths, name: string): Promise<void> {
  if (!(await stat(instanceFiles(paths, name).directory).catch(() => undefined))) return;
  throw new KilnError('E_SERVICE_EXISTS', `there is a service ${name} already`, {
    hint: `\`kiln service delete ${name}\` removes it`,
  });
}

/** Puts a finished folder in its place; it is on the disk before it is seen. */
export async function publishService(paths: StatePaths, name: string, work: string): Promise<void> {
  await syncFileSystem(work);
  await rename(work, instanceFiles(paths, name).directory);
}

/** Gives an /etc that no box uses a machine id and a host name of its own. */
export function giveIdentity(etc: string, hostname: string): void {
  const directory = openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    replaceFileIn(directory, 'machine-id', `${randomBytes(16).toString('hex')}\n`);
    replaceFileIn(directory, 'hostname', `${hostname}\n`);
    replaceFileIn(
      directory,
      'hosts',
      `127.0.0.1 localhost ${hostname}\n::1 localhost ${hostname}\n`,
    );
  } finally {
    closeSync(directory);
  }
}
