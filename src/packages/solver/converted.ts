import { mkdir, open, rm, utimes } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { runConfined } from '../../host/confine/run.ts';
import { withLock } from '../../host/files/flock.ts';
import { dropCached, findRecord, recordText } from '../../host/state/checked-file.ts';
import { DamagedFileError } from '../../host/state/damage.ts';
import { createTemporary, isSealed, sealFile, writeWhole } from '../repository/cache.ts';
import { type Group, groupSchema, type MetadataFile } from '../repository/metadata/repomd.ts';
import { metadataPath, type OpenRepository } from '../repository/open.ts';
import type { DownloadContext } from '../repository/transport/download.ts';
import type { ConvertInput } from './convert-task.ts';

const FORMAT = 3;

/** Fedora's primary takes 700 MB and 6 s, its filelists twice that. */
const LIMITS = { memory: 4 * 2 ** 30, cpuSeconds: 300, wallMs: 900_000, fileSize: 4 * 2 ** 30 };

const groupsSchema = z.array(groupSchema);

export type ConvertedPart = 'primary' | 'filelists' | 'modules';

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
    await convert(member, await conversion(member, part, context), path, context);
  };
  await withLock(`${path}.lock`, make, { signal: context.signal });
  return path;
}

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
  await rm(convertedPath(member, 'primary', context), { force: true });
  await ensureConverted(member, 'primary', context);
  return readGroupsFile(path) ?? [];
}

function readGroupsFile(path: string): readonly Group[] | undefined {
  const take = (value: object) =>
    groupsSchema.parse((value as { readonly groups?: unknown }).groups);
  const { value, damage } = findRecord(path, take);
  if (damage !== undefined) dropCached(damage);
  return value;
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

interface Conversion {
  readonly input: ConvertInput;
  readonly metadata: readonly MetadataFile[];
  readonly bases: readonly string[];
}

async function conversion(
  member: OpenRepository,
  part: ConvertedPart,
  context: DownloadContext,
): Promise<Conversion> {
  const { primary, group, filelists, modules } = member.index.repomd;
  if (part === 'primary') {
    const metadata = group === undefined ? [primary] : [primary, group];
    return { input: { kind: part, primary, group }, metadata, bases: [] };
  }
  if (part === 'filelists' && filelists !== undefined) {
    const base = await ensureConverted(member, 'primary', context);
    return { input: { kind: part, filelists }, metadata: [filelists], bases: [base] };
  }
  if (part === 'modules' && modules !== undefined) {
    return { input: { kind: part, modules }, metadata: [modules], bases: [] };
  }
  throw new TypeError(`the repository has no ${part}`);
}

async function convert(
  member: OpenRepository,
  { input, metadata, bases }: Conversion,
  path: string,
  context: DownloadContext,
): Promise<void> {
  const { id } = member.repository;
  const paths = await Promise.all(metadata.map((file) => metadataPath(member, file, context)));
  await using stack = new AsyncDisposableStack();
  const output = stack.use(await createTemporary(path));
  const fds = [output.handle.fd];
  for (const source of [...bases, ...paths]) fds.push(stack.use(await open(source)).fd);
  let groups: Group[] = [];
  try {
    const validate = (message: unknown) => groupsSchema.parse(message);
    const { signal } = context;
    const task = 'solver-convert';
    const found = runConfined({ task, input, validate, fds, limits: LIMITS, signal });
    for await (const value of found) groups = value;
  } catch (cause) {
    if (!(cause instanceof KilnError)) throw cause;
    const { code, message, hint } = cause;
    throw new KilnError(code, `repository ${id}: ${message}`, { cause, hint });
  }
  await sealFile(output.handle);
  // Before the other file appears: whoever sees that one expects this one.
  if (input.kind === 'primary') await writeWhole(groupsPath(path), recordText({ groups }));
  await output.commit();
}

async function isWhole(path: string): Promise<boolean> {
  try {
    return await isSealed(path);
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    dropCached(error);
    return false;
  }
}
