import { existsSync } from 'node:fs';
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import { acquireLock, type HeldLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { runProgram } from '../../host/process/child-process.ts';
import {
  type FoundRecord,
  findRecord,
  withFields,
  writeRecord,
} from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { copyFile, copyTree } from '../../image/tree/clone.ts';
import type { PlannedVolume } from '../../sandbox/door/plan.ts';
import { suggestion } from '../../suggest.ts';
import { SERVICE_NAME, type ServiceDefinition } from '../definition/definition.ts';
import { readDefinition } from '../definition/definition-file.ts';

export function instanceFiles(paths: StatePaths, name: string): InstanceFiles {
  return filesIn(join(paths.services, name), join(paths.runServices, name));
}

/** The files of one service. Only root can reach them, except what the sandbox sees. */
export type InstanceFiles = Readonly<ReturnType<typeof filesIn>>;

export function filesIn(directory: string, run: string) {
  const logs = join(directory, 'log');
  return {
    directory,
    definition: join(directory, 'service.yaml'),
    image: join(directory, 'image.json'),
    outcome: join(directory, 'outcome.json'),
    etc: join(directory, 'etc'),
    var: join(directory, 'var'),
    varImage: join(directory, 'var.ext4'),
    logs,
    log: join(logs, 'service.log'),
    run,
    /** What came of a run whose outcome had no room on the disk. */
    volatileOutcome: join(run, 'outcome.json'),
    /**
     * The copy of a service from before an upgrade. While it exists, the upgrade is not finished; if nobody holds
     * the lock, the upgrading process died, and the service is restored.
     */
    previous: join(directory, 'previous'),
    upgradeLock: join(directory, 'upgrade.lock'),
    /**
     * Held by the supervisor. Not on /run: a supervisor that reaches the same state by another name, or from
     * another container, must not write the same /var.
     */
    supervisorLock: join(directory, 'supervisor.lock'),
    wanted: join(run, 'wanted'),
    socket: join(run, 'control.sock'),
  };
}

interface ServiceImage {
  readonly image: string | undefined;
  /** E_SERVICE_IMAGE: the service can be stopped and inspected, but not started. */
  readonly imageProblem: KilnError | undefined;
}

export interface StoredService extends ServiceImage {
  readonly name: string;
  readonly files: InstanceFiles;
  readonly definition: ServiceDefinition;
}

export function checkServiceName(name: string): void {
  if (SERVICE_NAME.test(name)) return;
  throw new KilnError('E_SERVICE_NAME', `${JSON.stringify(name)} cannot be the name of a service`, {
    hint: 'small letters, digits and dashes, at most 63',
  });
}

export async function serviceNames(paths: StatePaths): Promise<string[]> {
  const names = await readdir(paths.services).catch(() => []);
  return names.filter((name) => SERVICE_NAME.test(name)).sort();
}

export async function serviceFiles(paths: StatePaths, name: string): Promise<InstanceFiles> {
  checkServiceName(name);
  const files = instanceFiles(paths, name);
  if (await stat(files.directory).catch(() => undefined)) return files;
  throw new KilnError('E_NO_SERVICE', `there is no service ${name}`, {
    hint: suggestion(name, await serviceNames(paths), '`kiln service list` shows them'),
  });
}

export async function readService(paths: StatePaths, name: string): Promise<StoredService> {
  const files = await serviceFiles(paths, name);
  return {
    name,
    files,
    definition: await readDefinition(files.definition),
    ...readImageId(name, files.image),
  };
}

export function knownImage({ image, imageProblem }: StoredService): string {
  if (image === undefined) throw imageProblem;
  return image;
}

const takeImage = withFields<{ image: string }>({ image: 'string' });

export function findImageId(path: string): FoundRecord<{ image: string }> {
  return findRecord(path, takeImage);
}

function readImageId(name: string, path: string): ServiceImage {
  const { value, damage } = findImageId(path);
  if (value !== undefined) return { image: value.image, imageProblem: undefined };
  const text = `${name}: cannot read which image it has: ${path}`;
  const imageProblem = new KilnError('E_SERVICE_IMAGE', text, {
    cause: damage ?? new Error('there is no such file'),
    hint: `\`kiln service upgrade ${name}\` gives it the image of its recipe; its data stays`,
  });
  return { image: undefined, imageProblem };
}

export function writeImageId(path: string, image: string): void {
  writeRecord(path, { image }, { flush: true });
}

/** Folders of services that are being created or deleted. Nobody owns what a sweep finds there. */
export async function workDirectory(paths: StatePaths, name: string): Promise<string> {
  const directory = `${paths.services}/.${name}.${process.pid}`;
  await mkdir(paths.services, { recursive: true, mode: 0o711 });
  await removeTree(directory);
  await mkdir(directory, { mode: 0o700 });
  return directory;
}

export async function lockServices(paths: StatePaths): Promise<HeldLock> {
  await mkdir(paths.services, { recursive: true, mode: 0o711 });
  return await acquireLock(`${paths.services}/.lock`);
}

/**
 * Removes what processes left that died while they created or deleted services. Needs the lock. What cannot
 * be removed concerns no other service.
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

interface VarFiles {
  readonly var: string;
  readonly varImage: string;
}

export function varVolume(files: VarFiles): PlannedVolume['source'] {
  return existsSync(files.varImage) ? { image: files.varImage } : files.var;
}

/** @throws KilnError E_MACHINE */
export function refuseVarImage({ isolation }: ServiceDefinition, hasImage: boolean): void {
  if (isolation !== 'vm' || !hasImage) return;
  throw new KilnError('E_MACHINE', 'a service in a machine has no ext4 image for its /var', {
    hint: 'leave out -i, or --isolation vm: its units are read from /etc and /var on this host',
  });
}

export function copyVar(from: VarFiles, to: VarFiles): void {
  if (!existsSync(from.varImage)) copyTree(from.var, to.var);
  else copyFile(from.varImage, to.varImage);
}

/** The smallest size (bytes) in which ext4 has room for its own data. */
const SMALLEST = 16 * 2 ** 20;

/** Without mounting: mke2fs copies owners, modes, attributes. Throws E_IMAGE_SIZE if the tree does not fit. */
export async function moveVarToImage(files: VarFiles, bytes: number): Promise<void> {
  const { var: tree, varImage: path } = files;
  if (bytes < SMALLEST) {
    throw new KilnError('E_IMAGE_SIZE', `an image of ${sizeInWords(bytes)} is too small`, {
      hint: 'give it at least 16M',
    });
  }
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes);
  try {
    // -m 0: no blocks that only the host's root could use.
    await runProgram('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-d', tree, path], {
      works: true,
    });
  } catch (cause) {
    await rm(path, { force: true });
    throw new KilnError('E_IMAGE_SIZE', `cannot make an ext4 image of ${sizeInWords(bytes)}`, {
      cause,
      hint: 'a larger one, or is e2fsprogs installed?',
    });
  }
  await removeTree(tree);
}
