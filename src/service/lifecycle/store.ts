import { mkdir, readdir, stat } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { acquireLock, type HeldLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { suggest } from '../../recipe/problem.ts';
import { SERVICE_NAME, type ServiceDefinition } from '../definition/definition.ts';
import { readDefinition } from '../definition/definition-file.ts';
import { type InstanceFiles, instanceFiles } from '../instance-files.ts';

export interface StoredService {
  readonly name: string;
  readonly files: InstanceFiles;
  readonly definition: ServiceDefinition;
  /** The image's id; undefined if image.json is damaged: see `imageProblem`. */
  readonly image: string | undefined;
  /** E_SERVICE_IMAGE: the service can be stopped and inspected, but not started. */
  readonly imageProblem: KilnError | undefined;
}

/** Throws E_SERVICE_NAME for an invalid name. */
export function checkServiceName(name: string): void {
  if (SERVICE_NAME.test(name)) return;
  throw new KilnError('E_SERVICE_NAME', `${JSON.stringify(name)} cannot be the name of a service`, {
    hint: 'small letters, digits and dashes, at most 63',
  });
}

/** The names of all services, sorted, without unfinished ones. */
export async function serviceNames(paths: StatePaths): Promise<string[]> {
  const names = await readdir(paths.services).catch(() => []);
  return names.filter((name) => SERVICE_NAME.test(name)).sort();
}

/** The files of a service, even of a broken one. Throws E_SERVICE_NAME, E_NO_SERVICE. */
export async function serviceFiles(paths: StatePaths, name: string): Promise<InstanceFiles> {
  checkServiceName(name);
  const files = instanceFiles(paths, name);
  if (!(await stat(files.directory).catch(() => undefined))) throw await noService(paths, name);
  return files;
}

/** Reads a service. Throws E_NO_SERVICE, E_RECIPE with the place of each mistake. */
export async function readService(paths: StatePaths, name: string): Promise<StoredService> {
  const files = await serviceFiles(paths, name);
  return {
    name,
    files,
    definition: await readDefinition(files.definition),
    ...readImageId(name, files.image),
  };
}

/** The image's id of a service that needs it. Throws E_SERVICE_IMAGE. */
export function knownImage({ image, imageProblem }: StoredService): string {
  if (image === undefined) throw imageProblem;
  return image;
}

const takeImage = withFields<{ image: string }>({ image: 'string' });

function readImageId(name: string, path: string): Pick<StoredService, 'image' | 'imageProblem'> {
  const { value, damage } = findRecord(path, takeImage);
  const image = value?.image;
  return {
    image,
    imageProblem: image === undefined ? unknownImage(name, path, damage) : undefined,
  };
}

function unknownImage(name: string, path: string, cause?: KilnError): KilnError {
  return new KilnError('E_SERVICE_IMAGE', `${name}: cannot read which image it has: ${path}`, {
    cause: cause ?? new Error('there is no such file'),
    hint: `\`kiln service upgrade ${name}\` gives it the image of its recipe; its data stays`,
  });
}

/** Writes the image's id of a service, as a whole or not at all. */
export async function writeImageId(path: string, image: string): Promise<void> {
  writeRecord(path, { image }, { flush: true });
}

async function noService(paths: StatePaths, name: string): Promise<KilnError> {
  const known = await serviceNames(paths);
  const near = suggest(name, known);
  return new KilnError('E_NO_SERVICE', `there is no service ${name}`, {
    hint: near === undefined ? '`kiln service list` shows them' : `did you mean ${near}?`,
  });
}

/** Folders of services that are being created or deleted. Nobody owns what a sweep finds there. */
export async function workDirectory(paths: StatePaths, name: string): Promise<string> {
  const directory = `${paths.services}/.${name}.${process.pid}`;
  await mkdir(paths.services, { recursive: true, mode: 0o711 });
  await removeTree(directory);
  await mkdir(directory, { mode: 0o700 });
  return directory;
}

/** Only one process at a time creates, clones, upgrades or deletes services. */
export async function lockServices(paths: StatePaths): Promise<HeldLock> {
  await mkdir(paths.services, { recursive: true, mode: 0o711 });
  return await acquireLock(`${paths.services}/.lock`);
}

/**
 * Removes what processes left that died while they created or deleted services. Needs the lock. What cannot be
 * removed stays until the next sweep: it concerns no other service.
 */
export async function sweepServices(paths: StatePaths): Promise<void> {
  for (const name of await readdir(paths.services)) {
    if (!name.startsWith('.') || name === '.lock') continue;
    try {
      await removeTree(`${paths.services}/${name}`);
    } catch (error) {
      if (!(error instanceof KilnError && error.code === 'E_REMOVE')) throw error;
    }
  }
}
