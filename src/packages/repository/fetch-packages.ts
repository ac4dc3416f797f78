import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KilnError } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { hasContent } from './cache.ts';
import type { Lock, LockedPackage, LockedRepository } from './lock/lock.ts';
import { downloadContext, type OpenOptions } from './open.ts';
import { readState, stateDirectory } from './state.ts';
import type { LockAccess } from './transport/access.ts';
import { type DownloadContext, downloadObject } from './transport/download.ts';
import { findMirrors, namedBy } from './transport/find-mirrors.ts';
import { MAX_PACKAGE } from './transport/limits.ts';
import { isAbsoluteUrl, locationUrl, resolveLocation } from './transport/location.ts';
import { Mirrors } from './transport/mirrors.ts';
import { mapParallel } from './transport/parallel.ts';

/** A list of mirrors older than this is asked for anew, milliseconds. */
const MIRRORS_AGE = 2 * 24 * 3600 * 1000;

/**
 * Makes every package of a lock available on this machine. @returns the path of each file by its digest. A file
 * of a local repository stays in its place, all others are in the cache. The content has the locked digest; its
 * signature is not checked here. @throws KilnError E_DOWNLOAD, E_PACKAGE_CHANGED (a local file is not the
 * locked one), E_REPOSITORY_METADATA, E_CACHE_WRITE
 */
export async function fetchPackages(
  lock: Lock,
  options: Omit<OpenOptions, 'refresh'> & {
    /** Called with the digest of each package as soon as its file is available. */
    readonly onPackage?: ((digest: string) => void) | undefined;
  },
): Promise<Map<string, string>> {
  const context = downloadContext(options);
  const repositories = new Map(lock.repositories.map((entry) => [entry.id, entry]));
  const mirrors = new Map<string, Promise<Mirrors>>();
  const progress = new PackagesProgress(lock, context);
  // Checking takes a processor, so it is done in turn: the first files are ready before the last ones begin.
  let turn: Promise<unknown> = Promise.resolve();
  const checkInTurn = (path: string, entry: LockedPackage, signal: AbortSignal) => {
    const checked = awaitedLater(
      turn.then(() => {
        signal.throwIfAborted();
        return localPackage(path, entry);
      }),
    );
    turn = checked.catch(() => undefined);
    return checked;
  };
  const fetchOne = async (entry: LockedPackage, signal: AbortSignal) => {
    const repository = repositories.get(entry.repository);
    if (repository === undefined) throw new TypeError(`no repository ${entry.repository}`);
    const local = localPath(repository, entry);
    const path =
      local === undefined
        ? await remotePackage(lock, repository, entry, mirrors, progress.watch(entry, signal))
        : await checkInTurn(local, entry, signal);
    progress.finished();
    options.onPackage?.(entry.digest);
    return [entry.digest, path] as const;
  };
  // Two names in a lock may mean the same file.
  const entries = [...new Map(lock.packages.map((entry) => [entry.digest, entry])).values()];
  const { parallel } = context.transfer;
  return new Map(await mapParallel(entries, parallel, context.signal, fetchOne));
}

/**
 * The paths at which {@link fetchPackages} will find the packages of a lock, by digest, if all are local;
 * otherwise undefined. The files are not read.
 */
export function localPackages(lock: Lock): Map<string, string> | undefined {
  const repositories = new Map(lock.repositories.map((entry) => [entry.id, entry]));
  const paths = new Map<string, string>();
  for (const entry of lock.packages) {
    const repository = repositories.get(entry.repository);
    const path = repository && localPath(repository, entry);
    if (path === undefined) return undefined;
    paths.set(entry.digest, path);
  }
  return paths;
}

/**
 * A URL for each remote package of a lock, by digest: at the best mirror where there are several.
 * @throws KilnError E_DOWNLOAD, E_REPOSITORY_METADATA
 */
export async function packageUrls(
  lock: Lock,
  options: Omit<OpenOptions, 'refresh'>,
): Promise<Map<string, string>> {
  const context = downloadContext(options);
  const bases = new Map<string, string>();
  for (const repository of lock.repositories) {
    if (repository.source.kind === 'directory') continue;
    const [base] = (await packageMirrors(repository, lock.access, context)).bases;
    if (base !== undefined) bases.set(repository.id, base);
  }
  const urls = new Map<string, string>();
  for (const { digest, location, repository } of lock.packages) {
    const base = bases.get(repository);
    if (isAbsoluteUrl(location)) urls.set(digest, location);
    else if (base !== undefined) urls.set(digest, locationUrl(base, location));
  }
  return urls;
}

/** The path of a package that needs no download. */
function localPath({ source }: LockedRepository, entry: LockedPackage): string | undefined {
  if (source.kind !== 'directory') return undefined;
  checkLocation(entry, true);
  if (entry.location.startsWith('file://')) return fileURLToPath(entry.location);
  if (isAbsoluteUrl(entry.location)) return undefined;
  return join(source.path, entry.location);
}

/** @throws KilnError E_REPOSITORY_METADATA for a lock that names what is not the repository's. */
function checkLocation({ location, nevra, repository }: LockedPackage, local: boolean): void {
  resolveLocation({ location, base: '' }, local, `${nevra} of repository ${repository}`);
}

async function localPackage(path: string, entry: LockedPackage): Promise<string> {
  if (await hasContent(path, entry.digest, entry.size)) return path;
  const found = await stat(path).catch(() => undefined);
  throw new KilnError(
    'E_PACKAGE_CHANGED',
    `${entry.nevra} of repository ${entry.repository}: ${path} ${found === undefined ? 'is missing' : 'is not the locked package'}`,
    {
      hint: 'make the metadata (createrepo_c) and the lock anew if the folder was changed on purpose',
      details: { nevra: entry.nevra, digest: entry.digest },
    },
  );
}

async function remotePackage(
  { access }: Lock,
  repository: LockedRepository,
  entry: LockedPackage,
  mirrors: Map<string, Promise<Mirrors>>,
  context: DownloadContext,
): Promise<string> {
  const { digest, size, location, nevra } = entry;
  checkLocation(entry, false);
  const cached = await context.cache.find(digest, size);
  if (cached !== undefined) return cached;
  const item = { repository: repository.id, item: nevra, maxSize: MAX_PACKAGE, digest, size };
  if (isAbsoluteUrl(location)) {
    const { source } = repository;
    const [base] = source.kind === 'baseurl' ? source.urls : [namedBy(source)];
    const single = new Mirrors([location], base, access?.of(repository.id));
    return await downloadObject(context, { ...item, mirrors: single, location: '' });
  }
  let found = mirrors.get(repository.id);
  if (found === undefined) {
    found = awaitedLater(packageMirrors(repository, access, context));
    mirrors.set(repository.id, found);
  }
  return await downloadObject(context, { ...item, mirrors: await found, location });
}

async function packageMirrors(
  repository: LockedRepository,
  accesses: LockAccess | undefined,
  context: DownloadContext,
): Promise<Mirrors> {
  const { id, source } = repository;
  if (source.kind === 'directory') throw new TypeError('a directory has no mirrors');
  const access = accesses?.of(id);
  if (source.kind === 'baseurl') return new Mirrors(source.urls, undefined, access);
  const state = await readState(stateDirectory(context.cache, repository));
  const usable = state !== undefined && Date.now() - state.checkedAt < MIRRORS_AGE;
  const bases = usable ? state.mirrors : (await findMirrors(id, source, access, context)).mirrors;
  return new Mirrors(bases, namedBy(source), access);
}

/** Sums the progress of all downloads of one call. */
class PackagesProgress {
  readonly #context: DownloadContext;
  readonly #count: number;
  readonly #received = new Map<string, number>();
  #done = 0;

  constructor(lock: Lock, context: DownloadContext) {
    this.#context = context;
    this.#count = new Set(lock.packages.map(({ digest }) => digest)).size;
  }

  /** A context for the download of one package. */
  watch(entry: LockedPackage, signal: AbortSignal): DownloadContext {
    const { onProgress } = this.#context;
    if (onProgress === undefined) return { ...this.#context, signal };
    return {
      ...this.#context,
      signal,
      onProgress: (progress) => {
        if (progress.kind === 'download') this.#received.set(entry.digest, progress.received);
        onProgress(progress);
      },
    };
  }

  finished(): void {
    this.#done++;
    const receivedBytes = [...this.#received.values()].reduce((sum, bytes) => sum + bytes, 0);
    this.#context.onProgress?.({
      kind: 'packages',
      done: this.#done,
      count: this.#count,
      receivedBytes,
    });
  }
}
