/** Archives of services: what `kiln service backup` writes and `restore` reads. */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Document } from 'yaml';
import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { compressors, writeWhole } from '../../image/archive/export.ts';
import { unpackArchive } from '../../image/archive/import.ts';
import { packTree } from '../../image/archive/pack-tree.ts';
import { isImageName } from '../../image/find.ts';
import { findImage } from '../../image/store/images.ts';
import { nameFor, readManifest } from '../../image/store/manifest.ts';
import { formatPublish } from '../../sandbox/policy/network.ts';
import type { ServiceDefinition } from '../definition/definition.ts';
import { changeDefinition } from '../definition/definition-file.ts';
import { isSupervised, notRunningError, runInService } from '../supervisor/supervisor-client.ts';
import { appear, checkMounts } from './create.ts';
import { requireStopped } from './start-stop.ts';
import {
  checkServiceName,
  findImageId,
  lockServices,
  readService,
  type StoredService,
  writeImageId,
} from './store.ts';

/** What an archive has, and of which kind it must be: the rest is left out of a restored service. */
const PARTS: Readonly<Record<string, 'file' | 'directory'>> = {
  'service.yaml': 'file',
  'image.json': 'file',
  etc: 'directory',
  var: 'directory',
  'var.ext4': 'file',
  log: 'directory',
};

/** Only root restores, so the disk alone bounds an archive; the number of files follows from it. */
const BYTES_MAX = 2 ** 40;

/** Owners are numbers: accounts of the service's own are no accounts of who reads the archive. */
const NAMELESS = { users: new Map<number, string>(), groups: new Map<number, string>() };

/**
 * Of a stopped service, or after `hook`, a command line for the shell of one that runs.
 * @returns paths that no archive can hold
 * @throws KilnError E_NO_SERVICE, E_SERVICE_RUNS, E_SERVICE_STOPPED, E_HOOK, E_EXPORT
 */
export async function backupService(
  paths: StatePaths,
  name: string,
  output: HeldPath,
  hook: string | undefined,
): Promise<readonly string[]> {
  const { files } = await readService(paths, name);
  const running = hook !== undefined && (await isSupervised(files));
  const otherwise = ', or give --hook, a command that makes its data consistent';
  await using _stopped = running ? undefined : await requireStopped(name, files, otherwise);
  if (running) {
    const end = await runInService(files, { argv: ['/bin/sh', '-c', hook] });
    if (end === undefined) throw notRunningError(name);
    if (end.exitCode !== 0) {
      const said = end.output.slice(-1000).trim();
      throw new KilnError('E_HOOK', `${name}: the hook failed with ${end.exitCode}: ${hook}`, {
        hint: `nothing was written. It said${said === '' ? ' nothing' : `: ${said}`}`,
      });
    }
  }
  const [, compression = ''] = /\.tar(?:\.(gz|zst))?$/.exec(output) ?? [];
  const how = compression === 'gz' ? 'gzip' : compression === 'zst' ? 'zstd' : 'none';
  // It has what only the service may read.
  return await writeWhole(output, 0o600, async (file) => {
    const { stream, skipped } = await packTree(files.directory, NAMELESS);
    await pipeline([stream, ...compressors(how), file]);
    return skipped;
  });
}

export interface RestoreOptions {
  /** The caller confirms writable mounts of what the host lives on; that the archive does so counts for nothing. */
  readonly allowHostWrite: boolean;
  readonly warn: (message: string) => void;
}

/**
 * The archive may be a stranger's: of the service's folder only /etc and /var are as it has them. The service appears
 * as a whole or not at all.
 * @throws KilnError E_SERVICE_EXISTS, E_ARCHIVE, E_ARCHIVE_HOSTILE, E_SERVICE_NAME, E_BIND and those of a definition
 */
export async function restoreService(
  paths: StatePaths,
  archive: string,
  name: string,
  { allowHostWrite, warn }: RestoreOptions,
): Promise<StoredService> {
  checkServiceName(name);
  if (!existsSync(archive)) {
    throw new KilnError('E_ARCHIVE', `there is no ${archive}`, {
      hint: 'name a file that `kiln service backup` has written',
    });
  }
  await using _lock = await lockServices(paths);
  await appear(paths, name, async (files) => {
    // The archive says who owns its top folder, and with which mode: nobody but root may enter the service's.
    const unpacked = join(files.directory, 'unpacked');
    mkdirSync(unpacked, { mode: 0o700 });
    for (const text of await unpackArchive(archive, unpacked, BYTES_MAX)) warn(text);
    const lacks = ['service.yaml', 'image.json', 'etc'].find((part) => !has(unpacked, part));
    if (lacks !== undefined) {
      throw new KilnError('E_ARCHIVE', `${basename(archive)} is not a backup of a service`, {
        hint: `it has no ${lacks}: \`kiln service backup\` writes one`,
      });
    }
    for (const [part, kind] of Object.entries(PARTS)) {
      if (has(unpacked, part)) takePart(unpacked, files.directory, part, kind);
    }
    await removeTree(unpacked);
    const { image } = findImageId(files.image).value ?? {};
    if (image === undefined || !(await isRoots(paths, image))) rmSync(files.image);
    else writeImageId(files.image, image);
    // The folder that it lies in is gone when somebody reads of its mistakes.
    const title = `${basename(archive)}/service.yaml`;
    const confirm = (document: Document.Parsed) => {
      if (!allowHostWrite) document.delete('allow-host-write');
    };
    const checked = changeDefinition(files.definition, confirm, title);
    checkMounts(paths, checked.definition);
    checked.store();
    for (const text of asksOfHost(checked.definition)) warn(`its definition asks for ${text}`);
    if (existsSync(files.varImage))
      warn('its /var is an ext4 image, which this host’s kernel mounts');
  });
  return await readService(paths, name);
}

function has(folder: string, part: string): boolean {
  return lstatSync(join(folder, part), { throwIfNoEntry: false }) !== undefined;
}

/**
 * Outside of /etc and /var kiln itself reads and writes. A link would lead it elsewhere, and through a second name in
 * /etc or /var the service could write its own definition.
 */
function takePart(from: string, to: string, part: string, kind: 'file' | 'directory'): void {
  const path = join(from, part);
  const stat = lstatSync(path);
  if (kind === 'file' ? !stat.isFile() || stat.nlink > 1 : !stat.isDirectory()) {
    throw new KilnError(
      'E_ARCHIVE_HOSTILE',
      `the archive is refused: its ${part} is not a ${kind}`,
      {
        hint: 'a link stands in its place, or it has a second name: `kiln service backup` writes none',
      },
    );
  }
  if (part === 'log') for (const name of readdirSync(path)) takePart(path, path, name, 'file');
  if (part !== 'etc' && part !== 'var') {
    chownSync(path, 0, 0);
    chmodSync(path, kind === 'file' ? 0o600 : 0o700);
  }
  renameSync(path, join(to, part));
}

/** Another user's private image becomes none of root's services because an archive has its id. */
async function isRoots(paths: StatePaths, image: string): Promise<boolean> {
  // What is no id is not found.
  const id = await findImage({ paths, owner: undefined }, image);
  const manifest = id === image ? readManifest(paths, id) : undefined;
  return manifest !== undefined && nameFor(paths, manifest, undefined) !== undefined;
}

/** What a definition asks for beyond a sandbox of its own. */
function asksOfHost(definition: ServiceDefinition): string[] {
  const { image, mounts, network, publish, capabilities, seccomp, label } = definition;
  const missing = definition['allow-missing'];
  return [
    ...(!isImageName(image) ? [`the image of ${image}, which \`upgrade\` reads`] : []),
    ...mounts.map(
      ({ source, target, readonly, image: isDisk, relabel }) =>
        `a mount: ${source}:${target}${isDisk ? ':image' : readonly ? ':ro' : ''}${relabel ? ', relabelled' : ''}`,
    ),
    ...(network === 'private' ? [] : network.map(({ name }) => `the network ${name}`)),
    ...publish.map((port) => `port ${formatPublish(port)} of this host`),
    ...(capabilities.length === 0 ? [] : [`capabilities: ${capabilities.join(', ')}`]),
    ...(seccomp === 'default' ? [] : [`the seccomp profile ${seccomp}`]),
    ...(label === undefined ? [] : ['a label']),
    ...(missing.length === 0 ? [] : [`fewer layers: without ${missing.join(', ')}`]),
  ];
}
