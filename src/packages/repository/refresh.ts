import { hash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { withLock } from '../../host/files/flock.ts';
import { type RepositoryIndex, readState, stateDirectory, writeState } from './cache.ts';
import type { Repository, RepositorySource } from './configuration.ts';
import { readLocal } from './local.ts';
import { readIndex, verifyRepomd } from './metadata/read-index.ts';
import type { RepositoryAccess } from './transport/access.ts';
import { downloadFile } from './transport/download.ts';
import { BrokenFileError, Mirrors } from './transport/mirrors.ts';
import type { DownloadContext } from './transport/transfer.ts';
import { keysDigest, readKeys } from './trust/keys.ts';

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
  const run = async (): Promise<RefreshedRepository> => {
    const { id, source, access } = repository;
    const keys = repository.repoGpgcheck ? await readKeys(repository) : undefined;
    const state = await readState(directory);
    // Metadata that other keys signed, or that was not checked, counts as unknown.
    const isTrusted = keys === undefined || state?.keys === keysDigest(keys);
    const before = isTrusted ? state?.index : undefined;
    const save = async (index: RepositoryIndex, mirrors: readonly string[]) => {
      const digest = keys && keysDigest(keys);
      await writeState(directory, { checkedAt: Date.now(), mirrors, keys: digest, index });
      return index;
    };
    const known = { keys, before, save };
    if (source.kind === 'directory') {
      const index = await refreshLocal(repository, source.path, known, context);
      return { index, mirrors: undefined };
    }
    const wanted = mode === 'auto' ? repository.metadataExpire * 1000 : Number.POSITIVE_INFINITY;
    const age = asked - (state?.checkedAt ?? Number.NEGATIVE_INFINITY);
    // If another process refreshed it while this one waited for the lock, that is enough.
    const fresh = mode === 'always' ? age <= 0 : age < wanted;
    if (before !== undefined && state !== undefined && fresh) {
      return { index: before, mirrors: new Mirrors(state.mirrors, namedBy(source), access) };
    }
    if (mode === 'never') {
      throw new KilnError(
        'E_REPOSITORY_OFFLINE',
        `repository ${id} has not been fetched yet, and --offline forbids it`,
        { hint: 'run once without --offline' },
      );
    }
    const { mirrors: bases, allowed } = await findMirrors(id, source, access, context);
    const mirrors = new Mirrors(bases, namedBy(source), access);
    return { index: await refreshRemote(repository, mirrors, allowed, known, context), mirrors };
  };
  return await withLock(join(directory, 'lock'), run, { signal: context.signal });
}

interface Known {
  readonly keys: readonly string[] | undefined;
  readonly before: RepositoryIndex | undefined;
  save(index: RepositoryIndex, mirrors: readonly string[]): Promise<RepositoryIndex>;
}

async function refreshLocal(
  repository: Repository,
  path: string,
  { keys, before, save }: Known,
  context: DownloadContext,
): Promise<RepositoryIndex> {
  const content = readLocal(repository, join(path, REPOMD), MAX_REPOMD);
  if (before?.digest === digestOf(content, 'sha256')) return before;
  if (keys !== undefined) {
    const signature = readLocal(repository, join(path, `${REPOMD}.asc`), MAX_SIGNATURE);
    await verifyRepomd(repository.id, content, signature, keys, context.signal);
  }
  return await save(await indexOf(repository, content, context), []);
}

async function refreshRemote(
  repository: Repository,
  mirrors: Mirrors,
  allowed: readonly string[],
  { keys, before, save }: Known,
  context: DownloadContext,
): Promise<RepositoryIndex> {
  const { id } = repository;
  const [newest] = allowed;
  if (before !== undefined && newest !== undefined && hasDigest(before, newest)) {
    return await save(before, mirrors.bases);
  }
  const place = { repository: id, mirrors, location: REPOMD };
  const item = { ...place, item: 'repomd.xml', maxSize: MAX_REPOMD };
  // The metalink says that there is a newer one; another mirror's ETag must not hide it.
  const known = allowed.length === 0 ? before : undefined;
  const answer = await downloadFile(context, item, known, (content) => {
    if (allowed.length === 0) return;
    const good = allowed.some((digest) => digestOf(content, digest.split(':')[0] ?? '') === digest);
    if (!good) throw new BrokenFileError('repomd.xml is not one that the metalink names');
  });
  if (answer === undefined) {
    if (before === undefined) throw new TypeError('unchanged since nothing');
    return await save(before, mirrors.bases);
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
  return await save({ ...index, etag, lastModified }, mirrors.bases);
}

async function indexOf(
  repository: Repository,
  content: Buffer,
  context: DownloadContext,
): Promise<RepositoryIndex> {
  const repomd = await readIndex('repomd', repository.id, content, context.signal);
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

export async function findMirrors(
  repository: string,
  source: Exclude<RepositorySource, { kind: 'directory' }>,
  access: RepositoryAccess | undefined,
  context: DownloadContext,
): Promise<{ readonly mirrors: readonly string[]; readonly allowed: readonly string[] }> {
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
  const { mirrors, repomds } = await readIndex('metalink', repository, content, context.signal);
  return { mirrors: mirrors.slice(0, MAX_MIRRORS), allowed: repomds };
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
