import { hash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { withLock } from '../../host/files/flock.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import {
  type RepositoryIndex,
  type RepositoryState,
  readState,
  stateDirectory,
  writeState,
} from './cache.ts';
import type { Repository, RepositorySource } from './configuration.ts';
import { readMetalink, readRepomd, verifyRepomd } from './metadata/read-index.ts';
import type { RepositoryAccess } from './transport/access.ts';
import { type DownloadContext, downloadFile } from './transport/download.ts';
import { BrokenFileError, Mirrors } from './transport/mirrors.ts';
import { fixturesHint, isGone, keysDigest, readKeys } from './trust/keys.ts';

/** `auto`: ask the server if the metadata is older than `metadata_expire`. `never`: use the cached metadata, offline. */
export type RefreshMode = 'auto' | 'always' | 'never';

const REPOMD = 'repodata/repomd.xml';
const MAX_MIRRORS = 500;

/** The most bytes from a server, far more than distributions have: a repomd.xml has 5 KiB, a metalink 100 KiB. */
const MAX_REPOMD = 4 << 20;
const MAX_METALINK = 4 << 20;
const MAX_MIRRORLIST = 1 << 20;
const MAX_SIGNATURE = 256 << 10;

export interface RefreshedRepository {
  readonly index: RepositoryIndex;
  readonly mirrors: Mirrors | undefined;
}

/**
 * Updates what is known of a repository. One process at a time does so; others wait and use its result.
 * @throws KilnError E_DOWNLOAD, E_REPOSITORY_METADATA, E_REPOSITORY_SIGNATURE, E_KEY_MISSING, E_REPOSITORY_OFFLINE,
 * E_REPOSITORY_MISSING
 */
export async function refreshRepository(
  repository: Repository,
  mode: RefreshMode,
  context: DownloadContext,
): Promise<RefreshedRepository> {
  const directory = stateDirectory(context.cache, repository);
  await mkdir(directory, { recursive: true });
  const asked = Date.now();
  const run = async () => {
    const keys = repository.repoGpgcheck ? await readKeys(repository) : undefined;
    const state = trustedPart(await readState(directory), keys);
    const known = { directory, keys, state };
    if (repository.source.kind === 'directory') {
      return await refreshLocal(repository, repository.source.path, known, context);
    }
    const wanted = mode === 'auto' ? repository.metadataExpire * 1000 : Number.POSITIVE_INFINITY;
    const age = asked - (state?.checkedAt ?? Number.NEGATIVE_INFINITY);
    // If another process refreshed it while this one waited for the lock, that is enough.
    const fresh = mode === 'always' ? age <= 0 : age < wanted;
    if (state?.index !== undefined && fresh) {
      const mirrors = new Mirrors(state.mirrors, namedBy(repository.source), repository.access);
      return { index: state.index, mirrors };
    }
    if (mode === 'never') {
      throw new KilnError(
        'E_REPOSITORY_OFFLINE',
        `repository ${repository.id} has not been fetched yet, and --offline forbids it`,
        { hint: 'run once without --offline' },
      );
    }
    return await refreshRemote(repository, known, context);
  };
  return await withLock(join(directory, 'lock'), run, { signal: context.signal });
}

/** Metadata that other keys signed, or that was not checked, counts as unknown. */
function trustedPart(
  state: RepositoryState | undefined,
  keys: readonly string[] | undefined,
): RepositoryState | undefined {
  if (state === undefined || keys === undefined || state.keys === keysDigest(keys)) return state;
  return { ...state, index: undefined };
}

interface Known {
  readonly directory: string;
  readonly keys: readonly string[] | undefined;
  readonly state: RepositoryState | undefined;
}

async function refreshLocal(
  repository: Repository,
  path: string,
  { directory, keys, state }: Known,
  context: DownloadContext,
): Promise<RefreshedRepository> {
  const content = readLocal(repository, join(path, REPOMD), MAX_REPOMD);
  if (state?.index?.digest === digestOf(content, 'sha256')) {
    return { index: state.index, mirrors: undefined };
  }
  if (keys !== undefined) {
    const signature = readLocal(repository, join(path, `${REPOMD}.asc`), MAX_SIGNATURE);
    await verifyRepomd(repository.id, content, signature, keys, context.signal);
  }
  const index = await indexOf(repository, content, context);
  await writeState(directory, {
    checkedAt: Date.now(),
    mirrors: [],
    allowed: [],
    keys: keys && keysDigest(keys),
    index,
  });
  return { index, mirrors: undefined };
}

async function refreshRemote(
  repository: Repository,
  { directory, keys, state }: Known,
  context: DownloadContext,
): Promise<RefreshedRepository> {
  const { id, source, access } = repository;
  if (source.kind === 'directory') throw new TypeError('a directory is not remote');
  const { mirrors: bases, allowed } = await findMirrors(id, source, access, context);
  const mirrors = new Mirrors(bases, namedBy(source), access);
  const before = state?.index;
  const done = async (index: RepositoryIndex): Promise<RefreshedRepository> => {
    await writeState(directory, {
      mirrors: bases,
      allowed,
      keys: keys && keysDigest(keys),
      checkedAt: Date.now(),
      index,
    });
    return { index, mirrors };
  };
  const [newest] = allowed;
  if (before !== undefined && newest !== undefined && hasDigest(before, newest)) {
    return await done(before);
  }
  const place = { repository: id, mirrors, location: REPOMD };
  const item = { ...place, item: 'repomd.xml', maxSize: MAX_REPOMD };
  // The metalink says that there is a newer one; another mirror's ETag must not hide it.
  const known = allowed.length === 0 ? before : undefined;
  const answer = await downloadFile(context, item, known, (content) => {
    if (allowed.length === 0) return;
    const good = allowed.some((digest) => digestOf(content, digest.split(':')[0] ?? '') === digest);
    if (!good) throw new BrokenFileError('repomd.xml is none of those that the metalink names');
  });
  if (answer === undefined) {
    if (before === undefined) throw new TypeError('unchanged since nothing');
    return await done(before);
  }
  if (before?.digest !== digestOf(answer.content, 'sha256') && keys !== undefined) {
    const location = `${REPOMD}.asc`;
    const asc = { ...item, location, item: 'repomd.xml.asc', maxSize: MAX_SIGNATURE };
    const signature = await downloadFile(context, asc, undefined, () => {});
    const bytes = signature?.content ?? Buffer.alloc(0);
    await verifyRepomd(id, answer.content, bytes, keys, context.signal);
  }
  const index = await indexOf(repository, answer.content, context);
  const { etag, lastModified } = answer;
  return await done({ ...index, etag, lastModified });
}

async function indexOf(
  repository: Repository,
  content: Buffer,
  context: DownloadContext,
): Promise<RepositoryIndex> {
  const repomd = await readRepomd(repository.id, content, context.signal);
  return {
    digest: digestOf(content, 'sha256'),
    otherDigests: [digestOf(content, 'sha512')],
    repomd,
  };
}

function hasDigest(index: RepositoryIndex, digest: string): boolean {
  return index.digest === digest || index.otherDigests.includes(digest);
}

function digestOf(content: Buffer, algorithm: string): string {
  return `${algorithm}:${hash(algorithm, content, 'hex')}`;
}

function readLocal(repository: Repository, path: string, limit: number): Buffer {
  try {
    return readUserFile(path, limit);
  } catch (cause) {
    const missing = isGone(cause) || hasErrno(cause, 'EACCES');
    const make = 'make the metadata with `createrepo_c FOLDER`';
    throw new KilnError(
      missing ? 'E_REPOSITORY_MISSING' : 'E_REPOSITORY_METADATA',
      `repository ${repository.id}: ${missing ? `there is no ${path}` : `${path} cannot be read`}`,
      {
        ...(isGone(cause) ? {} : { cause }),
        hint: missing ? (fixturesHint(path) ?? `${make}, or change the path`) : make,
      },
    );
  }
}

interface FoundMirrors {
  readonly mirrors: readonly string[];
  readonly allowed: readonly string[];
}

export async function findMirrors(
  repository: string,
  source: Exclude<RepositorySource, { kind: 'directory' }>,
  access: RepositoryAccess | undefined,
  context: DownloadContext,
): Promise<FoundMirrors> {
  if (source.kind === 'baseurl') return { mirrors: source.urls, allowed: [] };
  const item = {
    repository,
    mirrors: new Mirrors([source.url], undefined, access),
    location: '',
    item: source.kind,
    maxSize: source.kind === 'metalink' ? MAX_METALINK : MAX_MIRRORLIST,
  };
  const answer = await downloadFile(context, item, undefined, () => {});
  const content = answer?.content ?? Buffer.alloc(0);
  if (source.kind === 'mirrorlist')
    return { mirrors: parseMirrorlist(repository, content), allowed: [] };
  const { mirrors, repomds } = await readMetalink(repository, content, context.signal);
  return { mirrors: mirrors.slice(0, MAX_MIRRORS), allowed: repomds.map(({ digest }) => digest) };
}

export function namedBy(source: RepositorySource): string | undefined {
  return source.kind === 'metalink' || source.kind === 'mirrorlist' ? source.url : undefined;
}

/** One URL a line; everything else (comments, error pages) is passed over. */
function parseMirrorlist(repository: string, content: Buffer): string[] {
  const mirrors = content
    .toString('utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => /^https?:\/\/\S+$/.test(line) && URL.canParse(line));
  if (mirrors.length > 0) return [...new Set(mirrors)].slice(0, MAX_MIRRORS);
  const [first = ''] = content.toString('utf8').split('\n');
  throw new KilnError(
    'E_REPOSITORY_METADATA',
    `repository ${repository}: the mirrorlist names no http or https mirror`,
    {
      details: { begins: first.slice(0, 200) },
      hint: 'see whether $releasever and $basearch exist in that distribution',
    },
  );
}
