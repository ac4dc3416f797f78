import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { Document } from 'yaml';
import { KilnError } from '../errors.ts';
import { acquireLock, type HeldLock } from '../kernel/flock.ts';
import { RECIPE_SIZE_LIMIT, RecipeDocument } from '../recipe/document.ts';
import { RecipeError } from '../recipe/problem.ts';
import { suggest } from '../recipe/suggest.ts';
import type { StatePaths } from '../state/paths.ts';
import {
  SERVICE_NAME,
  type ServiceDefinition,
  type ServiceFile,
  serviceSchema,
} from './definition.ts';
import { type InstanceFiles, instanceFiles } from './instance-files.ts';

/** A service as it is kept. */
export interface StoredService {
  readonly name: string;
  readonly files: InstanceFiles;
  readonly definition: ServiceDefinition;
  /** The id of its image. */
  readonly image: string;
}

/** Throws E_SERVICE_NAME for what cannot be one. */
export function checkServiceName(name: string): void {
  if (SERVICE_NAME.test(name)) return;
  throw new KilnError('E_SERVICE_NAME', `${JSON.stringify(name)} cannot be the name of a service`, {
    hint: 'small letters, digits and dashes, at most 63',
  });
}

/** The names of all services, in order; half-made ones are none. */
export async function serviceNames(paths: StatePaths): Promise<string[]> {
  const names = await readdir(paths.services).catch(() => []);
  return names.filter((name) => SERVICE_NAME.test(name)).sort();
}

/** Where a service is kept, even if its file is broken. Throws E_SERVICE_NAME, E_NO_SERVICE. */
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
    image: await readImageId(files.image),
  };
}

/** The image of a service, as image.json has it. Throws E_SERVICE_READ. */
async function readImageId(path: string): Promise<string> {
  try {
    return (JSON.parse(await readFile(path, 'utf8')) as { image: string }).image;
  } catch (cause) {
    throw new KilnError('E_SERVICE_READ', `cannot read ${path}`, { cause });
  }
}

/** Notes the image of a service, as a whole or not at all. */
export async function writeImageId(path: string, image: string): Promise<void> {
  await replaceFile(path, `${JSON.stringify({ image })}\n`);
}

async function noService(paths: StatePaths, name: string): Promise<KilnError> {
  const known = await serviceNames(paths);
  const near = suggest(name, known);
  return new KilnError('E_NO_SERVICE', `there is no service ${name}`, {
    hint: near === undefined ? '`kiln service list` shows them' : `did you mean ${near}?`,
  });
}

/** Reads and checks a service.yaml. Throws E_SERVICE_READ, E_RECIPE. */
export async function readDefinition(path: string): Promise<ServiceDefinition> {
  const document = new RecipeDocument(path, await readBounded(path));
  const value = document.value();
  const checked = value === undefined ? undefined : document.check(serviceSchema, value);
  if (checked === undefined || document.problems.length > 0) {
    throw new RecipeError(path, document.problems);
  }
  return checked;
}

/** Reads a definition as it is written, checked, for a service to be made of it. Throws as {@link readDefinition}. */
export async function readServiceFile(path: string): Promise<ServiceFile> {
  await readDefinition(path);
  const { parse } = await import('yaml');
  return parse(await readBounded(path)) as ServiceFile;
}

async function readBounded(path: string): Promise<string> {
  try {
    await using file = await open(path, 'r');
    if ((await file.stat()).size > RECIPE_SIZE_LIMIT) throw new Error('it is too large');
    return await file.readFile('utf8');
  } catch (cause) {
    throw new KilnError('E_SERVICE_READ', `cannot read ${path}`, { cause });
  }
}

const HEADER = ` A service of kiln. Edit it and restart the service; \`kiln service schema\` prints what can stand here.`;

/** Writes a definition as people write one, as a whole or not at all. */
export async function writeDefinition(path: string, file: ServiceFile): Promise<void> {
  serviceSchema.parse(file);
  const document = new Document(file);
  document.commentBefore = HEADER;
  await replaceFile(path, document.toString({ lineWidth: 0 }));
}

/** The file as it is written, with what `change` sets; comments of a person are kept. */
export async function changeDefinition(
  path: string,
  change: (document: Document.Parsed) => void,
): Promise<void> {
  const { parseDocument } = await import('yaml');
  const document = parseDocument(await readBounded(path));
  change(document);
  const text = document.toString({ lineWidth: 0 });
  const checked = new RecipeDocument(path, text);
  if (checked.check(serviceSchema, checked.value()) === undefined) {
    throw new RecipeError(path, checked.problems);
  }
  await replaceFile(path, text);
}

/** Replaces a file as a whole. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  await writeFile(temporary, text, { mode: 0o600, flush: true });
  await rename(temporary, path);
}

/** Folders of services that are made or on their way out; what is found here belongs to nobody. */
export async function workDirectory(paths: StatePaths, name: string): Promise<string> {
  const directory = `${paths.services}/.${name}.${process.pid}`;
  await mkdir(paths.services, { recursive: true, mode: 0o711 });
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { mode: 0o700 });
  return directory;
}

/** Only one process at a time creates, clones, upgrades or deletes services. */
export async function lockServices(paths: StatePaths): Promise<HeldLock> {
  await mkdir(paths.services, { recursive: true, mode: 0o711 });
  return await acquireLock(`${paths.services}/.lock`);
}

/** Removes what processes that died while making or deleting services left. Needs the lock. */
export async function sweepServices(paths: StatePaths): Promise<void> {
  for (const name of await readdir(paths.services)) {
    if (!name.startsWith('.') || name === '.lock') continue;
    await rm(`${paths.services}/${name}`, { recursive: true, force: true });
  }
}
