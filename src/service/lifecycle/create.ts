import { randomBytes } from 'node:crypto';
import { constants, existsSync, openSync } from 'node:fs';
import { copyFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { closing, syncFileSystem } from '../../host/calls/descriptor.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { copyTree } from '../../image/tree/clone.ts';
import { refuseCopyUp, refuseHostWrites } from '../../sandbox/policy/host-write.ts';
import { bootCommand } from '../boot/system-files.ts';
import type { ServiceDefinition, ServiceFile } from '../definition/definition.ts';
import {
  changeDefinition,
  checkDefinition,
  replaceFileIn,
  writeDefinition,
} from '../definition/definition-file.ts';
import { serviceUnits } from '../definition/service-units.ts';
import { filesIn, type InstanceFiles, instanceFiles } from '../instance-files.ts';
import { namedCapabilities } from '../supervisor/unit-host.ts';
import type { ServiceUnit } from '../unit/service-unit.ts';
import { mergeTrees } from './merge-trees.ts';
import { type OwnedPaths, ownersOf } from './owned-paths.ts';
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
import { Tree, treeEntries } from './tree.ts';
import { copyVar, moveVarToImage } from './var-volume.ts';

interface CreatedService {
  readonly files: InstanceFiles;
  readonly units: readonly ServiceUnit[];
  /** The packages of the units, and their paths in /etc and /var. */
  readonly owners: readonly OwnedPaths[];
}

/** How a service's private directories are filled. */
interface CreateOptions {
  /** True to copy the image's files in the owners' /var; otherwise only empty folders are made. */
  readonly copy: boolean;
  /** The size of an ext4 image for /var, bytes; without it /var is a directory. */
  readonly imageSize?: number;
}

/**
 * Creates a service from an image, with an /etc, a /var, a machine id and a host name of its own. It appears as
 * a whole or not at all. Throws E_SERVICE_NAME, E_SERVICE_EXISTS, E_UNIT, E_NO_SYSTEMD, E_RECIPE, E_NO_PACKAGE,
 * E_BIND.
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

/** Removes the files in the folders below /var that belong to the owners alone. */
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
async function refuseExisting(paths: StatePaths, name: string): Promise<void> {
  if (!(await stat(instanceFiles(paths, name).directory).catch(() => undefined))) return;
  throw new KilnError('E_SERVICE_EXISTS', `there is a service ${name} already`, {
    hint: `\`kiln service delete ${name}\` removes it`,
  });
}

/** Moves a finished folder to its place, after flushing it to the disk. */
async function publishService(paths: StatePaths, name: string, work: string): Promise<void> {
  await syncFileSystem(work);
  await rename(work, instanceFiles(paths, name).directory);
}

/** Gives an unused /etc a machine id and a host name of its own. */
function giveIdentity(etc: string, hostname: string): void {
  const directory = openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY);
  using _directory = closing(directory);
  replaceFileIn(directory, 'machine-id', `${randomBytes(16).toString('hex')}\n`);
  replaceFileIn(directory, 'hostname', `${hostname}\n`);
  replaceFileIn(directory, 'hosts', `127.0.0.1 localhost ${hostname}\n::1 localhost ${hostname}\n`);
}

/**
 * Refuses mounts of what the host needs before the first start. Mounts that do not exist yet are checked at the
 * start. Throws E_BIND.
 */
function checkMounts(paths: StatePaths, definition: ServiceDefinition): void {
  const { boot, capabilities, mounts, 'allow-host-write': allowHostWrite } = definition;
  const binds = mounts
    .filter(({ source }) => existsSync(source))
    .map(({ source, target, readonly }) => ({ source, target, readonly }));
  refuseHostWrites(paths, { binds, allowHostWrite }, { uid: 0 });
  if (!boot && !namedCapabilities(capabilities).includes('SYS_ADMIN')) return;
  refuseCopyUp({ hostFiles: mounts.some(({ readonly }) => !readonly), allowHostWrite });
}

type CloneChanges = Pick<ServiceFile, 'publish' | 'network'>;

/** Settings that two services cannot share. */
const UNIQUE = [
  ['publish'],
  ['network', 'address'],
  ['network', 'gateway'],
  ['network', 'mac'],
] as const;

/**
 * Copies a stopped service with its /etc and /var (blocks are shared where the file system can) and gives it a
 * machine id and a host name of its own. Settings that only one service can have are left out: ports, a fixed
 * address, a MAC. It appears as a whole or not at all. Returns the keys that were left out. Throws
 * E_NO_SERVICE, E_SERVICE_EXISTS, E_SERVICE_RUNS.
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
  // A running service could change files while they are copied.
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
      // Without its fixed address the clone needs DHCP again.
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
