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
  /** The packages that the units belong to, and what of /etc and /var is theirs. */
  readonly owners: readonly OwnedPaths[];
}

/** How a service's private directories begin. */
interface CreateOptions {
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
async function refuseExisting(paths: StatePaths, name: string): Promise<void> {
  if (!(await stat(instanceFiles(paths, name).directory).catch(() => undefined))) return;
  throw new KilnError('E_SERVICE_EXISTS', `there is a service ${name} already`, {
    hint: `\`kiln service delete ${name}\` removes it`,
  });
}

/** Puts a finished folder in its place; it is on the disk before it is seen. */
async function publishService(paths: StatePaths, name: string, work: string): Promise<void> {
  await syncFileSystem(work);
  await rename(work, instanceFiles(paths, name).directory);
}

/** Gives an /etc that no sandbox uses a machine id and a host name of its own. */
function giveIdentity(etc: string, hostname: string): void {
  const directory = openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY);
  using _directory = closing(directory);
  replaceFileIn(directory, 'machine-id', `${randomBytes(16).toString('hex')}\n`);
  replaceFileIn(directory, 'hostname', `${hostname}\n`);
  replaceFileIn(directory, 'hosts', `127.0.0.1 localhost ${hostname}\n::1 localhost ${hostname}\n`);
}

/**
 * Refuses early what no start would allow: mounts of what the host lives on. Mounts that are not there
 * yet are looked at when the service starts. Throws E_BIND.
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
