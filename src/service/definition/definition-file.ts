import { constants, fchmodSync, writeSync } from 'node:fs';
import { Document } from 'yaml';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { openat2, unlinkat } from '../../host/files/at.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import { writeWholeSync } from '../../host/state/checked-file.ts';
import { RECIPE_SIZE_LIMIT, RecipeDocument } from '../../recipe/document.ts';
import { RecipeError } from '../../recipe/problem.ts';
import { type ServiceDefinition, type ServiceFile, serviceSchema } from './definition.ts';

const HINT =
  'docs/services.md explains them; `kiln service schema` prints the JSON Schema of service.yaml';

/** Reads and checks a service.yaml. Throws E_SERVICE_READ, E_RECIPE with the place of each mistake. */
export async function readDefinition(path: string): Promise<ServiceDefinition> {
  return checkText(path, await readBounded(path));
}

/** Reads a definition for a new service as it is written, and checks it. Throws as {@link readDefinition}. */
export async function readServiceFile(path: string): Promise<ServiceFile> {
  await readDefinition(path);
  const { parse } = await import('yaml');
  return parse(await readBounded(path)) as ServiceFile;
}

/** Checks a definition for the service `name`. Throws E_RECIPE. */
export function checkDefinition(name: string, file: ServiceFile): ServiceDefinition {
  return checked(new RecipeDocument(name, ''), file, 'service');
}

/** Writes a checked definition in the form that people write, as a whole or not at all. */
export async function writeDefinition(path: string, file: ServiceFile): Promise<void> {
  const document = new Document(file);
  document.commentBefore = HEADER;
  writeWholeSync(path, document.toString({ lineWidth: 0 }), { flush: true });
}

const HEADER = ` A service of kiln. Edit it and restart the service; \`kiln service schema\` prints what can stand here.`;

/** A changed definition that is not in its file yet. */
interface ChangedDefinition {
  readonly definition: ServiceDefinition;
  /** Replaces the file as a whole or not at all. */
  store(): Promise<void>;
}

/** The file with the settings of `change`. A person's comments are kept. Throws as {@link readDefinition}. */
export async function changeDefinition(
  path: string,
  change: (document: Document.Parsed) => void,
): Promise<ChangedDefinition> {
  const { parseDocument } = await import('yaml');
  const document = parseDocument(await readBounded(path));
  change(document);
  const text = document.toString({ lineWidth: 0 });
  const store = async () => writeWholeSync(path, text, { flush: true });
  return { definition: checkText(path, text), store };
}

function checkText(path: string, text: string): ServiceDefinition {
  const document = new RecipeDocument(path, text);
  return checked(document, document.value(), 'service file');
}

function checked(document: RecipeDocument, value: unknown, kind: string): ServiceDefinition {
  const definition = value === undefined ? undefined : document.check(serviceSchema, value);
  if (definition !== undefined && document.problems.length === 0) return definition;
  throw new RecipeError(document.file, document.problems, HINT, kind);
}

async function readBounded(path: string): Promise<string> {
  try {
    return readUserFile(path, RECIPE_SIZE_LIMIT).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_SERVICE_READ', `cannot read ${path}`, {
      cause,
      hint: 'give the path of a service definition (.yaml)',
    });
  }
}

/** Replaces an entry of a directory, even a link, by a plain file of root's. */
export function replaceFileIn(directory: number, name: string, text: string): void {
  try {
    unlinkat(directory, name);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = openat2(directory, name, { flags, mode: 0o600 });
  using _fd = closing(fd);
  fchmodSync(fd, 0o644);
  writeSync(fd, text);
}
