import { KilnError } from '../../errors.ts';
import { Cache } from './cache.ts';
import type { Repository } from './configuration.ts';
import { localFile, localPath } from './local.ts';
import type { MetadataFile } from './metadata/read-index.ts';
import { MAX_METADATA } from './metadata/repomd.ts';
import { type RefreshedRepository, type RefreshMode, refreshRepository } from './refresh.ts';
import { downloadObject } from './transport/download.ts';
import { resolveLocation } from './transport/location.ts';
import { Mirrors } from './transport/mirrors.ts';
import type { Reach } from './transport/reach.ts';
import {
  type DownloadContext,
  defaultTransfer,
  type OnProgress,
  type TransferOptions,
} from './transport/transfer.ts';
import { fixturesHint, readKeys } from './trust/keys.ts';

export interface OpenOptions extends DownloadOptions {
  readonly refresh?: RefreshMode | undefined;
}

export interface DownloadOptions {
  readonly paths: { readonly cache: string };
  readonly transfer?: Partial<TransferOptions> | undefined;
  /** `named` unless given: whoever wrote the image recipe, or a repository's configuration, is trusted with the network. */
  readonly reach?: Reach | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

export function downloadContext(options: DownloadOptions): DownloadContext {
  return {
    cache: new Cache(options.paths),
    transfer: { ...defaultTransfer, ...options.transfer },
    reach: options.reach ?? 'named',
    signal: options.signal,
    onProgress: options.onProgress,
  };
}

export interface OpenRepository extends RefreshedRepository {
  readonly repository: Repository;
}

export interface RepositorySet {
  readonly context: DownloadContext;
  readonly members: OpenRepository[];
}

/**
 * Runs `work` for every item, `limit` at a time. After the first failure nothing more starts, running work is
 * aborted, and the failure is thrown when all of it has ended.
 */
export async function mapParallel<Item, Result>(
  items: readonly Item[],
  limit: number,
  signal: AbortSignal | undefined,
  work: (item: Item, signal: AbortSignal) => Promise<Result>,
): Promise<Result[]> {
  const stop = new AbortController();
  const combined = AbortSignal.any([stop.signal, ...(signal === undefined ? [] : [signal])]);
  const results: Result[] = [];
  const queue = items.entries();
  const worker = async () => {
    for (const [index, item] of queue) {
      combined.throwIfAborted();
      try {
        results[index] = await work(item, combined);
      } catch (error) {
        stop.abort(error);
        throw error;
      }
    }
  };
  const workers = Array.from({ length: Math.min(limit, items.length) }, worker);
  await Promise.allSettled(workers);
  // The first failure aborted the others, whose errors only follow from it.
  combined.throwIfAborted();
  return results;
}

/**
 * Makes repositories ready for solving: fetches and verifies each one's repomd.xml as its configuration asks.
 * @throws KilnError of the first repository that fails: E_DOWNLOAD, E_REPOSITORY_METADATA, E_REPOSITORY_SIGNATURE,
 * E_REPOSITORY_OFFLINE, E_REPOSITORY_MISSING, E_REPOSITORY_CONFIGURATION, E_KEY_MISSING
 */
export async function openRepositories(
  repositories: readonly Repository[],
  options: OpenOptions,
): Promise<RepositorySet> {
  const ids = repositories.map(({ id }) => id);
  const twice = ids.find((id, index) => ids.indexOf(id) !== index);
  if (twice !== undefined) {
    throw new KilnError('E_REPOSITORY_CONFIGURATION', `two repositories are called ${twice}`, {
      hint: 'give one of them another id',
    });
  }
  // Otherwise a missing key would be noticed only after all downloads.
  const checked = repositories.filter(({ gpgcheck, repoGpgcheck }) => gpgcheck || repoGpgcheck);
  await Promise.all(checked.map((repository) => readKeys(repository)));
  const context = downloadContext(options);
  const mode = options.refresh ?? 'auto';
  const open = async (repository: Repository, signal: AbortSignal) => ({
    repository,
    ...(await refreshRepository(repository, mode, { ...context, signal })),
  });
  const members = await mapParallel(repositories, repositories.length, options.signal, open);
  return { context, members };
}

export async function metadataPath(
  member: OpenRepository,
  file: MetadataFile,
  context: DownloadContext,
): Promise<string> {
  const { repository, mirrors } = member;
  const { id } = repository;
  const { digest, size, type } = file;
  const what = `${type} of repository ${id}`;
  // Who may not reach all of the network may not name files of this host, either.
  const { below } = repository;
  const local = mirrors === undefined && context.reach === 'named' && below === undefined;
  const location = resolveLocation({ ...file, base: '' }, local, what);
  const remote = /^https?:/.test(location);
  if (mirrors !== undefined || remote) {
    const place = remote
      ? new Mirrors([location], mirrors?.namedBy ?? mirrors?.bases[0], repository.access)
      : mirrors!;
    const item = { repository: id, item: type, maxSize: MAX_METADATA, digest, size };
    return await downloadObject(context, {
      ...item,
      mirrors: place,
      location: remote ? '' : location,
    });
  }
  const path = localPath(repository, location);
  const wanted = { digest, maxSize: size ?? MAX_METADATA };
  const found = await localFile(repository, path, wanted, context.cache);
  if (found !== undefined) return found;
  throw new KilnError('E_REPOSITORY_MISSING', `repository ${repository.id}: there is no ${path}`, {
    hint: fixturesHint(path) ?? 'the folder changed, or is not whole: run createrepo_c again',
  });
}
