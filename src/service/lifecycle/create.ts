import { randomBytes } from 'node:crypto';
import { constants, existsSync, openSync } from 'node:fs';
import { copyFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { syncFileSystem } from '../../host/process/child-process.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { refuseHostImage } from '../../image/host.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { copyTree } from '../../image/tree/clone.ts';
import { refuseCopyUp, refuseHostWrites, refuseRemount } from '../../sandbox/policy/host-write.ts';
import { parseCapability } from '../../sandbox/policy/specification.ts';
import { bootCommand } from '../boot/booted-system.ts';
import type { NetworkFile, ServiceDefinition, ServiceFile } from '../definition/definition.ts';
import { definedMounts } from '../definition/definition.ts';
import {
  changeDefinition,
  checkDefinition,
  replaceFileIn,
  writeDefinition,
} from '../definition/definition-file.ts';
import { serviceUnits } from '../definition/service-units.ts';
import { mergeTrees } from './merge-trees.ts';
import { type OwnedPaths, ownersOf } from './owned-paths.ts';
import { requireStopped } from './start-stop.ts';
import {
  checkServiceName,
  copyVar,
  filesIn,
  type InstanceFiles,
  instanceFiles,
  knownImage,
  lockServices,
  moveVarToImage,
  readService,
  refuseVarImage,
  sweepServices,
  workDirectory,
  writeImageId,
} from './store.ts';
import { Tree, treeEntries } from './tree.ts';

interface CreateOptions {
  /** True to copy the image's files in the owners' /var; otherwise only empty folders are made. */
  readonly copy: boolean;
  /** The size of an ext4 image for /var, bytes; without it /var is a directory. */
  readonly imageSize?: number;
}

/**
 * The service appears as a whole or not at all. Throws E_SERVICE_NAME, E_SERVICE_EXISTS, E_UNIT,
 * E_NO_SYSTEMD, E_RECIPE, E_NO_PACKAGE, E_BIND.
 */
export async function createService(
  paths: StatePaths,
  name: string,
  file: ServiceFile,
  image: LeasedImage,
  options: CreateOptions,
) {
  checkServiceName(name);
  refuseHostImage(image.manifest, 'services');
  const definition = checkDefinition(name, file);
  checkMounts(paths, definition);
  refuseVarImage(definition, options.imageSize !== undefined);
  await using _lock = await lockServices(paths);
  return await appear(paths, name, async (files) => {
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
    writeImageId(files.image, image.manifest.id);
    writeDefinition(files.definition, file);
    return { files: instanceFiles(paths, name), units, owners };
  });
}

/** The service appears as a whole or not at all. Needs the lock. @throws KilnError E_SERVICE_EXISTS */
export async function appear<Made>(
  paths: StatePaths,
  name: string,
  fill: (files: InstanceFiles) => Promise<Made>,
): Promise<Made> {
  const { directory } = instanceFiles(paths, name);
  if (await stat(directory).catch(() => undefined)) {
    throw new KilnError('E_SERVICE_EXISTS', `there is a service ${name} already`, {
      hint: `\`kiln service delete ${name}\` removes it`,
    });
  }
  await sweepServices(paths);
  const work = await workDirectory(paths, name);
  try {
    const made = await fill(filesIn(work, ''));
    await syncFileSystem(work);
    await rename(work, directory);
    return made;
  } catch (error) {
    await removeTree(work);
    throw error;
  }
}

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

function giveIdentity(etc: string, hostname: string): void {
  using folder = closing(openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY));
  replaceFileIn(folder.fd, 'machine-id', `${randomBytes(16).toString('hex')}\n`);
  replaceFileIn(folder.fd, 'hostname', `${hostname}\n`);
  replaceFileIn(folder.fd, 'hosts', `127.0.0.1 localhost ${hostname}\n::1 localhost ${hostname}\n`);
}

/** @throws KilnError E_BIND */
export function checkMounts(paths: StatePaths, definition: ServiceDefinition): void {
  const { boot, capabilities, mounts, 'allow-host-write': allowHostWrite } = definition;
  // No folder of the host is seen where what is in a file is unpacked.
  const shown = mounts.filter(({ image }) => image !== true);
  const binds = definedMounts(shown.filter(({ source }) => existsSync(source)));
  refuseHostWrites(paths, { binds, allowHostWrite }, { uid: 0 });
  if (!boot && !capabilities.map(parseCapability).includes('SYS_ADMIN')) return;
  refuseCopyUp({ hostFiles: shown.some(({ readonly }) => !readonly), allowHostWrite });
  refuseRemount({ shownFiles: shown.length > 0, allowHostWrite });
}

/** What a clone does not have of its model's network. Without a fixed address it needs DHCP again. */
const OWN = ['address', 'gateway', 'route', 'mac'] as const;

/** @param left gets the names of what is left out */
function withoutOwn(network: ServiceFile['network'], left: Set<string>): ServiceFile['network'] {
  if (Array.isArray(network)) return network.map((each) => withoutOwnOf(each, left));
  return network && withoutOwnOf(network, left);
}

function withoutOwnOf(network: NetworkFile, left: Set<string>): NetworkFile {
  if (typeof network === 'string') return network;
  const { dhcp, ...rest } = network;
  const found = OWN.filter((key) => key in network);
  for (const key of found) left.add(`network.${key}`);
  const others = Object.entries(rest).filter(([key]) => !OWN.some((own) => own === key));
  const isFixed = found.some((key) => key !== 'mac');
  return {
    ...Object.fromEntries(others),
    name: network.name,
    ...(isFixed ? {} : defined({ dhcp })),
  };
}

/**
 * Copies a stopped service (blocks are shared where the file system can), without settings that only one
 * service can have; returns the keys that were left out. It appears as a whole or not at all. Throws
 * E_NO_SERVICE, E_SERVICE_EXISTS, E_SERVICE_RUNS.
 */
export async function cloneService(
  paths: StatePaths,
  from: string,
  name: string,
  changes: Partial<ServiceFile>,
): Promise<string[]> {
  checkServiceName(name);
  await using _lock = await lockServices(paths);
  const model = await readService(paths, from);
  const image = knownImage(model);
  return await appear(paths, name, async (files) => {
    // A running service could change files while they are copied.
    await using _stopped = await requireStopped(from, model.files);
    copyTree(model.files.etc, files.etc);
    copyVar(model.files, files);
    giveIdentity(files.etc, name);
    writeImageId(files.image, image);
    await copyFile(model.files.definition, files.definition);
    const left = new Set<string>();
    const changed = changeDefinition(files.definition, (document) => {
      document.delete('hostname');
      if (document.has('publish') && changes.publish === undefined) left.add('publish');
      document.delete('publish');
      const { network } = document.toJS() as ServiceFile;
      const others = changes.network ?? withoutOwn(network, left);
      if (others !== undefined) document.set('network', others);
      if (changes.publish !== undefined) document.set('publish', changes.publish);
    });
    changed.store();
    return [...left];
  });
}
