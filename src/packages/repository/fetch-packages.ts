import { stat } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { hasContent, readState, stateDirectory } from './cache.ts';
import { localFile, localPath } from './local.ts';
import type { Lock, LockedPackage, LockedRepository } from './lock/lock.ts';
import { type DownloadOptions, downloadContext, mapParallel } from './open.ts';
import { findMirrors, namedBy } from './refresh.ts';
import type { LockAccess } from './transport/access.ts';
import { downloadObject } from './transport/download.ts';
import { isAbsoluteUrl, locationUrl, resolveLocation } from './transport/location.ts';
import { Mirrors } from './transport/mirrors.ts';
import type { DownloadContext } from './transport/transfer.ts';

/** Bytes of the largest package that is taken. */
export const MAX_PACKAGE: number = 32 * 2 ** 30;

/** A list of mirrors older than this is asked for anew, milliseconds. */
const MIRRORS_AGE = 2 * 24 * 3600 * 1000;

/**
 * Makes every package of a lock available on this machine: files of local repositories in their places, all
 * others in the cache. The content has the locked digest; its signature is not checked here.
 * @returns the path of each file by its digest
 * @throws KilnError E_DOWNLOAD, E_PACKAGE_CHANGED (a local file is not the locked one), E_REPOSITORY_METADATA,
 *   E_CACHE_WRITE
 */
export async function fetchPackages(
  lock: Lock,
  options: DownloadOptions,
  onPackage?: (digest: string) => void,
): Promise<Map<string, string>> {
  const context = downloadContext(options);
  const repositories = new Map(lock.repositories.map((entry) => [entry.id, entry]));
  const mirrors = new Map<string, Promise<Mirrors>>();
  // Two names in a lock may mean the same file.
  const entries = [...new Map(lock.packages.map((entry) => [entry.digest, entry])).values()];
  let done = 0;
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
    const local = placeOf(repository, entry);
    const path =
      local === undefined
        ? await remotePackage(lock, repository, entry, mirrors, { ...context, signal })
        : repository.below === undefined
          ? await checkInTurn(local, entry, signal)
          : await copiedPackage(repository, local, entry, context);
    done++;
    context.onProgress?.({ kind: 'packages', done, count: entries.length });
    onPackage?.(entry.digest);
    return [entry.digest, path] as const;
  };
  const { parallel } = context.transfer;
  return new Map(await mapParallel(entries, parallel, context.signal, fetchOne));
}

export function localPackages(lock: Lock): Map<string, string> | undefined {
  const repositories = new Map(lock.repositories.map((entry) => [entry.id, entry]));
  const paths = new Map<string, string>();
  for (const entry of lock.packages) {
    const repository = repositories.get(entry.repository);
    const path = repository && placeOf(repository, entry);
    if (path === undefined || repository?.below !== undefined) return undefined;
    paths.set(entry.digest, path);
  }
  return paths;
}

export async function packageUrls(
  lock: Lock,
  options: DownloadOptions,
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

/** Where a package lies on this host; undefined for one of a server. */
function placeOf(repository: LockedRepository, entry: LockedPackage): string | undefined {
  if (repository.source.kind !== 'directory') return undefined;
  checkLocation(entry, repository.below === undefined);
  return /^https?:/.test(entry.location) ? undefined : localPath(repository, entry.location);
}

function checkLocation({ location, nevra, repository }: LockedPackage, local: boolean): void {
  resolveLocation({ location, base: '' }, local, `${nevra} of repository ${repository}`);
}

async function localPackage(path: string, entry: LockedPackage): Promise<string> {
  if (await hasContent(path, entry.digest, entry.size)) return path;
  const found = await stat(path).catch(() => undefined);
  throw changedError(path, entry, found === undefined ? 'is missing' : 'is not the locked package');
}

async function copiedPackage(
  repository: LockedRepository,
  path: string,
  entry: LockedPackage,
  { cache }: DownloadContext,
): Promise<string> {
  const { digest, size: maxSize } = entry;
  const copy = await localFile(repository, path, { digest, maxSize }, cache);
  if (copy !== undefined) return copy;
  throw changedError(path, entry, 'is missing, or not the locked package');
}

function changedError(path: string, entry: LockedPackage, why: string): KilnError {
  return new KilnError(
    'E_PACKAGE_CHANGED',
    `${entry.nevra} of repository ${entry.repository}: ${path} ${why}`,
    {
      hint: 'make the metadata (createrepo_c) and the lock again if the folder was changed on purpose',
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
    const single = new Mirrors([location], base, access?.get(repository.id));
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
  if (source.kind === 'directory') throw new TypeError('a folder has no mirrors');
  const access = accesses?.get(id);
  const state = await readState(stateDirectory(context.cache, repository));
  const usable = state !== undefined && Date.now() - state.checkedAt < MIRRORS_AGE;
  const bases = usable ? state.mirrors : (await findMirrors(id, source, access, context)).mirrors;
  return new Mirrors(bases, namedBy(source), access);
}
