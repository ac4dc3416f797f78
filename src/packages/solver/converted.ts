import { mkdir, open, rm, utimes } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { askConfined } from '../../host/confine/run.ts';
import { withLock } from '../../host/files/flock.ts';
import { drop, findCached, recordText } from '../../host/state/checked-file.ts';
import { DamagedFileError } from '../../host/state/damage.ts';
import { createTemporary, isSealed, sealFile, writeWhole } from '../repository/cache.ts';
import type { ModulesInput } from '../repository/metadata/modules-task.ts';
import { type Group, groupSchema, metadataFileError } from '../repository/metadata/read-index.ts';
import { metadataPath, type OpenRepository } from '../repository/open.ts';
import type { DownloadContext } from '../repository/transport/transfer.ts';
import type { ConvertInput } from './convert-task.ts';

const FORMAT = 3;

/** Fedora's primary takes 700 MB and 6 s, its filelists twice that. */
const LIMITS = { memory: 4 * 2 ** 30, cpuSeconds: 300, wallMs: 900_000, fileSize: 4 * 2 ** 30 };

const groupsSchema = z.array(groupSchema);

export type ConvertedPart = ConvertInput['kind'] | 'modules';

/**
 * The path of a repository's metadata in libsolv's form. One process makes it; the others wait.
 * @throws KilnError E_DOWNLOAD, E_REPOSITORY_METADATA, E_REPOSITORY_MISSING, E_SOLVER_MISSING
 */
export async function ensureConverted(
  member: OpenRepository,
  part: ConvertedPart,
  context: DownloadContext,
): Promise<string> {
  const path = convertedPath(member, part, context);
  if (await isWhole(path)) {
    const now = new Date();
    await utimes(path, now, now).catch(() => {});
    return path;
  }
  await mkdir(dirname(path), { recursive: true });
  const make = async () => {
    if (await isWhole(path)) return;
    context.onProgress?.({ kind: 'load', repository: member.repository.id });
    await convert(member, part, path, context);
  };
  await withLock(`${path}.lock`, make, { signal: context.signal });
  return path;
}

export async function dropConverted(
  member: OpenRepository,
  context: DownloadContext,
): Promise<void> {
  for (const part of Object.keys(SUFFIXES) as ConvertedPart[]) {
    await rm(convertedPath(member, part, context), { force: true });
  }
}

/** The comps groups of a repository; {@link ensureConverted} `primary` must have been there before. */
export async function readGroups(
  member: OpenRepository,
  context: DownloadContext,
): Promise<readonly Group[]> {
  const path = groupsPath(convertedPath(member, 'primary', context));
  const groups = readGroupsFile(path);
  if (groups !== undefined) return groups;
  await rm(convertedPath(member, 'primary', context), { force: true });
  await ensureConverted(member, 'primary', context);
  return readGroupsFile(path) ?? [];
}

function readGroupsFile(path: string): readonly Group[] | undefined {
  return findCached(path, (value) => groupsSchema.parse('groups' in value ? value.groups : null));
}

const SUFFIXES: Readonly<Record<ConvertedPart, string>> = {
  primary: 'solv',
  filelists: 'solvx',
  modules: 'modules',
};

function convertedPath(
  member: OpenRepository,
  part: ConvertedPart,
  context: DownloadContext,
): string {
  const [, digest = ''] = member.index.digest.split(':');
  return context.cache.solv(`${digest}-${FORMAT}.${SUFFIXES[part]}`);
}

function groupsPath(primary: string): string {
  return primary.replace(/\.solv$/, '.groups.json');
}

async function convert(
  member: OpenRepository,
  part: ConvertedPart,
  path: string,
  context: DownloadContext,
): Promise<void> {
  const { repository, index } = member;
  const file = index.repomd[part];
  if (file === undefined) throw new TypeError(`the repository has no ${part}`);
  const group = part === 'primary' ? index.repomd.group : undefined;
  const metadata = group === undefined ? [file] : [file, group];
  const sources = await Promise.all(metadata.map((each) => metadataPath(member, each, context)));
  if (part === 'filelists') sources.push(await ensureConverted(member, 'primary', context));
  await using stack = new AsyncDisposableStack();
  const output = stack.use(await createTemporary(path));
  const fds = [output.handle.fd];
  for (const source of sources) fds.push(stack.use(await open(source)).fd);
  const work = part === 'modules' ? readsModules({ file }) : converts({ kind: part, file, group });
  const groups = await askConfined({
    ...{ ...work, fds, limits: LIMITS, signal: context.signal },
    validate: (message) => groupsSchema.parse(message),
  }).catch((cause: unknown) => {
    if (!(cause instanceof KilnError)) throw cause;
    const files = metadata.map(({ location }) => location).join(' or ');
    throw metadataFileError(repository.id, files, cause);
  });
  await sealFile(output.handle);
  // Before the other file appears: whoever sees that one expects this one.
  if (part === 'primary') await writeWhole(groupsPath(path), recordText({ groups }));
  await output.commit();
}

const converts = (input: ConvertInput) => ({ task: 'solver-convert', input });
const readsModules = (input: ModulesInput) => ({ task: 'repository-modules', input });

async function isWhole(path: string): Promise<boolean> {
  try {
    return await isSealed(path);
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    drop(error);
    return false;
  }
}
