import { mkdir, open, rm, utimes } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { runConfined } from '../../host/confine/run.ts';
import { withLock } from '../../host/files/flock.ts';
import { dropCached, findRecord, recordText } from '../../host/state/checked-file.ts';
import { DamagedFileError } from '../../host/state/damage.ts';
import { createTemporary, isSealed, sealFile, writeWhole } from '../repository/cache.ts';
import type { Group } from '../repository/metadata/comps.ts';
import type { MetadataFile } from '../repository/metadata/metadata-file.ts';
import { metadataPath, type OpenRepository } from '../repository/open.ts';
import type { DownloadContext } from '../repository/transport/download.ts';
import type { ConvertInput } from './convert-task.ts';

/** Raised when the converted files of an older kiln are of no use any more. */
const FORMAT = 3;

/** Fedora's primary takes 700 MB and 6 s, its filelists twice that. */
const LIMITS = { memory: 4 * 2 ** 30, cpuSeconds: 300, wallMs: 900_000, fileSize: 4 * 2 ** 30 };

const groupsSchema: z.ZodType<Group[]> = z.array(
  z.strictObject({
    kind: z.enum(['group', 'environment']),
    id: z.string(),
    name: z.string(),
    packages: z.array(
      z.strictObject({
        name: z.string(),
        type: z.enum(['mandatory', 'default', 'optional', 'conditional']),
        requires: z.string().optional(),
      }),
    ),
    groups: z.array(z.string()),
  }),
) as z.ZodType<Group[]>;

/** The parts of a repository's metadata that are converted, each on its own. */
export type ConvertedPart = 'primary' | 'filelists' | 'modules';

/**
 * The path of a repository's metadata in libsolv's form, which is made unless it is there: one
 * process makes it, the others wait.
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
    if (part === 'primary') await convertPrimary(member, path, context);
    else if (part === 'filelists') await convertFilelists(member, path, context);
    else await convertModules(member, path, context);
  };
  await withLock(`${path}.lock`, make, { signal: context.signal });
  return path;
}

/** Deletes what turned out to be damaged. */
export async function dropConverted(
  member: OpenRepository,
  context: DownloadContext,
): Promise<void> {
  for (const part of ['primary', 'filelists', 'modules'] as const) {
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
  await convertAnew(member, context);
  return readGroupsFile(path) ?? [];
}

function readGroupsFile(path: string): readonly Group[] | undefined {
  const take = (value: object) =>
    groupsSchema.parse((value as { readonly groups?: unknown }).groups);
  const { value, damage } = findRecord(path, take);
  if (damage !== undefined) dropCached(damage);
  return value;
}

async function convertAnew(member: OpenRepository, context: DownloadContext): Promise<void> {
  await rm(convertedPath(member, 'primary', context), { force: true });
  await ensureConverted(member, 'primary', context);
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

async function convertPrimary(
  member: OpenRepository,
  path: string,
  context: DownloadContext,
): Promise<void> {
  const { primary, group } = member.index.repomd;
  const files = [primary, ...(group === undefined ? [] : [group])];
  const input = { kind: 'primary' as const, primary, group };
  await convert(member, input, files, [], path, context, async (groups) => {
    // Before the other file appears: whoever sees that one expects this one.
    await writeWhole(groupsPath(path), recordText({ groups }));
  });
}

async function convertFilelists(
  member: OpenRepository,
  path: string,
  context: DownloadContext,
): Promise<void> {
  const { filelists } = member.index.repomd;
  if (filelists === undefined) throw new TypeError('the repository has no filelists');
  const base = await ensureConverted(member, 'primary', context);
  const input = { kind: 'filelists' as const, filelists };
  await convert(member, input, [filelists], [base], path, context, async () => {});
}

async function convertModules(
  member: OpenRepository,
  path: string,
  context: DownloadContext,
): Promise<void> {
  const { modules } = member.index.repomd;
  if (modules === undefined) throw new TypeError('the repository has no modules');
  const input = { kind: 'modules' as const, modules };
  await convert(member, input, [modules], [], path, context, async () => {});
}

async function convert(
  member: OpenRepository,
  input: ConvertInput,
  metadata: readonly MetadataFile[],
  others: readonly string[],
  path: string,
  context: DownloadContext,
  beforeCommit: (groups: Group[]) => Promise<void>,
): Promise<void> {
  const { id } = member.repository;
  const paths = await Promise.all(metadata.map((file) => metadataPath(member, file, context)));
  await using stack = new AsyncDisposableStack();
  const output = stack.use(await createTemporary(path));
  const fds = [output.handle.fd];
  for (const source of [...others, ...paths]) fds.push(stack.use(await open(source)).fd);
  let value: Group[] = [];
  try {
    const validate = (message: unknown) => groupsSchema.parse(message);
    const { signal } = context;
    const task = 'solver-convert';
    for await (const groups of runConfined({
      task,
      input,
      validate,
      fds,
      limits: LIMITS,
      signal,
    })) {
      value = groups;
    }
  } catch (cause) {
    if (!(cause instanceof KilnError)) throw cause;
    throw new KilnError(cause.code, `repository ${id}: ${cause.message}`, {
      cause,
      hint: cause.hint,
    });
  }
  await sealFile(output.handle);
  await beforeCommit(value);
  await output.commit();
}

/** Whether the converted metadata is there; what is damaged goes. */
async function isWhole(path: string): Promise<boolean> {
  try {
    return await isSealed(path);
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    dropCached(error);
    return false;
  }
}
