import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { withLock } from '../../host/files/flock.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import type { Repository } from './configuration.ts';
import { fixturesHint } from './fixtures-hint.ts';
import {
  type RepositoryIndex,
  type RepositoryState,
  readState,
  STATE_FORMAT,
  stateDirectory,
  writeState,
} from './state.ts';
import { type DownloadContext, downloadFile } from './transport/download.ts';
import { findMirrors, namedBy } from './transport/find-mirrors.ts';
import { MAX_REPOMD, MAX_SIGNATURE } from './transport/limits.ts';
import { BrokenFileError, Mirrors } from './transport/mirrors.ts';
import { keysDigest, readKeys } from './trust/keys.ts';

/**
 * `auto`: ask the server if the metadata is older than `metadata_expire`. `always`: ask now. `never`: use the
 * cached metadata, offline.
 */
export type RefreshMode = 'auto' | 'always' | 'never';

const REPOMD = 'repodata/repomd.xml';

/** A repository with its repomd.xml, as current as `refresh` asked. */
export interface RefreshedRepository {
  readonly index: RepositoryIndex;
  /** Undefined for a local directory. */
  readonly mirrors: Mirrors | undefined;
}

/**
 * Updates what is known of a repository. One process at a time does so; others wait and use its result.
 * @throws KilnError E_DOWNLOAD, E_REPOSITORY_METADATA, E_REPOSITORY_SIGNATURE, E_KEY_MISSING,
 * E_REPOSITORY_OFFLINE, E_REPOSITORY_MISSING
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
    if (repository.source.kind === 'directory') {
      const { path } = repository.source;
      return await refreshLocal(repository, path, directory, state, keys, context);
    }
    const wanted = mode === 'auto' ? repository.metadataExpire * 1000 : Number.POSITIVE_INFINITY;
    const age = asked - (state?.checkedAt ?? Number.NEGATIVE_INFINITY);
    // If another process refreshed it while this one waited for the lock, that is enough.
    const fresh = mode === 'always' ? age <= 0 : age < wanted;
    if (state?.index !== undefined && fresh) {
      return {
        index: state.index,
        mirrors: new Mirrors(state.mirrors, namedBy(repository.source), repository.access),
      };
    }
    if (mode === 'never') throw offline(repository);
    return await refreshRemote(repository, directory, state, keys, context);
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

function offline(repository: Repository): KilnError {
  return new KilnError(
    'E_REPOSITORY_OFFLINE',
    `repository ${repository.id} has not been fetched yet, and --offline forbids it`,
    { hint: 'run once without --offline' },
  );
}

async function refreshLocal(
  repository: Repository,
  path: string,
  directory: string,
  state: RepositoryState | undefined,
  keys: readonly string[] | undefined,
  context: DownloadContext,
): Promise<RefreshedRepository> {
  const content = await readLocal(repository, join(path, REPOMD), MAX_REPOMD);
  if (state?.index?.digest === digestOf(content, 'sha256')) {
    return { index: state.index, mirrors: undefined };
  }
  if (keys !== undefined) {
    const signature = await readLocal(repository, join(path, `${REPOMD}.asc`), MAX_SIGNATURE);
    await verify(repository, content, signature, keys, context);
  }
  const index = await indexOf(repository, content, context);
  await writeState(directory, {
    format: STATE_FORMAT,
    checkedAt: Date.now(),
    mirrors: [],
    allowed: [],
    ...checkedWith(keys),
    index,
  });
  return { index, mirrors: undefined };
}

async function refreshRemote(
  repository: Repository,
  directory: string,
  state: RepositoryState | undefined,
  keys: readonly string[] | undefined,
  context: DownloadContext,
): Promise<RefreshedRepository> {
  const { id, source, access } = repository;
  if (source.kind === 'directory') throw new TypeError('a directory is not remote');
  const { mirrors: bases, allowed } = await findMirrors(id, source, access, context);
  const mirrors = new Mirrors(bases, namedBy(source), access);
  const found = {
    format: STATE_FORMAT as typeof STATE_FORMAT,
    mirrors: [...bases],
    allowed: [...allowed],
  };
  const before = state?.index;
  const done = async (index: RepositoryIndex): Promise<RefreshedRepository> => {
    await writeState(directory, {
      ...found,
      ...checkedWith(keys),
      checkedAt: Date.now(),
      index,
    });
    return { index, mirrors };
  };
  const [newest] = allowed;
  if (before !== undefined && newest !== undefined && hasDigest(before, newest)) {
    return await done(before);
  }
  const item = {
    repository: id,
    mirrors,
    location: REPOMD,
    item: 'repomd.xml',
    maxSize: MAX_REPOMD,
  };
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
    await verify(repository, answer.content, bytes, keys, context);
  }
  const index = await indexOf(repository, answer.content, context);
  const { etag, lastModified } = answer;
  return await done({
    ...index,
    etag,
    lastModified,
  });
}

function checkedWith(keys: readonly string[] | undefined): Pick<RepositoryState, 'keys'> {
  return keys === undefined ? {} : { keys: keysDigest(keys) };
}

async function verify(
  repository: Repository,
  content: Buffer,
  signature: Buffer,
  keys: readonly string[],
  context: DownloadContext,
): Promise<void> {
  const { verifyRepomd } = await import('./trust/verify-repomd.ts');
  await verifyRepomd(repository.id, content, signature, keys, context.signal);
}

async function indexOf(
  repository: Repository,
  content: Buffer,
  context: DownloadContext,
): Promise<RepositoryIndex> {
  // It loads schemas, which known metadata does not need.
  const { readRepomd } = await import('./metadata/parse-index.ts');
  const repomd = await readRepomd(content, context.signal).catch((cause: unknown) => {
    if (!(cause instanceof KilnError)) throw cause;
    throw new KilnError(cause.code, `repository ${repository.id}: ${cause.message}`, {
      cause,
      ...(cause.hint && { hint: cause.hint }),
    });
  });
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
  return `${algorithm}:${createHash(algorithm).update(content).digest('hex')}`;
}

async function readLocal(repository: Repository, path: string, limit: number): Promise<Buffer> {
  try {
    return readUserFile(path, limit);
  } catch (cause) {
    if (!hasErrno(cause, 'ENOENT', 'ENOTDIR', 'EACCES')) {
      throw new KilnError(
        'E_REPOSITORY_METADATA',
        `repository ${repository.id}: ${path} cannot be read`,
        { cause, hint: 'make the metadata with `createrepo_c FOLDER`' },
      );
    }
    throw new KilnError(
      'E_REPOSITORY_MISSING',
      `repository ${repository.id}: there is no ${path}`,
      {
        cause,
        hint:
          fixturesHint(path) ?? 'make the metadata with `createrepo_c FOLDER`, or change the path',
      },
    );
  }
}
