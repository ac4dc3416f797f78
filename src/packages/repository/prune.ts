import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { hasErrno } from '../../host/calls/libc.ts';
import { tryLock } from '../../host/files/flock.ts';
import { BUILD_CACHES } from './cache.ts';

/** Files used within this time, milliseconds, may be in use. */
const IN_USE = 60 * 60 * 1000;

/** After this time, milliseconds, an untouched download or temporary file was left by a dead process. */
const ABANDONED = 24 * 60 * 60 * 1000;

export interface PruneOptions {
  /** All files of the cache together, bytes; undefined is no limit. */
  readonly maxSize?: number;
  /** Since the last use, milliseconds; undefined is no limit. */
  readonly maxAge?: number;
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export interface Pruned {
  readonly files: number;
  readonly bytes: number;
}

interface CachedFile {
  readonly path: string;
  readonly bytes: number;
  /** Last use, milliseconds since 1970. */
  readonly used: number;
}

/**
 * Deletes the least recently used files of the download cache, and after a day what killed processes left. Files used
 * within the last hour, and running downloads, stay.
 */
export async function pruneCache(
  paths: { readonly cache: string },
  options: PruneOptions,
): Promise<Pruned> {
  const root = paths.cache;
  const { maxSize = Number.POSITIVE_INFINITY, maxAge = Number.POSITIVE_INFINITY } = options;
  const now = Date.now();
  const removed = { files: 0, bytes: 0 };
  const remove = async ({ path, bytes, used }: CachedFile) => {
    options.signal?.throwIfAborted();
    // A large cache takes long: a build may have found the file since it was listed.
    const found = await stat(path).catch(() => undefined);
    if (found === undefined || found.mtimeMs > used) return;
    if (options.dryRun !== true) await rm(path, { force: true });
    removed.files++;
    removed.bytes += bytes;
  };
  for (const file of await filesBelow(join(root, 'partial'))) {
    if (now - file.used < ABANDONED) continue;
    await using held = await tryLock(file.path);
    if (held !== undefined) await remove(file);
  }
  const kept: CachedFile[] = [];
  for (const file of await cachedFiles(root)) {
    if (file.path.startsWith(join(root, 'partial/')) || file.path.endsWith('lock')) continue;
    const limit = file.path.endsWith('.tmp') ? ABANDONED : Math.max(maxAge, IN_USE);
    if (now - file.used > limit) await remove(file);
    else kept.push(file);
  }
  let total = kept.reduce((sum, { bytes }) => sum + bytes, 0);
  for (const file of kept.sort((a, b) => a.used - b.used)) {
    if (total <= maxSize || now - file.used < IN_USE) break;
    await remove(file);
    total -= file.bytes;
  }
  return removed;
}

export async function cacheUsage(paths: { readonly cache: string }): Promise<Pruned> {
  const files = await cachedFiles(paths.cache);
  return { files: files.length, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/** Without the caches that sandboxes write (buildroot/caches.ts): a sandbox may swap a folder for a link meanwhile. */
async function cachedFiles(root: string): Promise<CachedFile[]> {
  const names = await readdir(root).catch(() => []);
  const own = names.filter((name) => name !== BUILD_CACHES);
  return (await Promise.all(own.map((name) => filesBelow(join(root, name))))).flat();
}

async function filesBelow(directory: string): Promise<CachedFile[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(
    (error: unknown) => {
      if (hasErrno(error, 'ENOENT')) return [];
      throw error;
    },
  );
  const files: CachedFile[] = [];
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const found = await stat(path).catch(() => undefined);
    if (found !== undefined) files.push({ path, bytes: found.size, used: found.mtimeMs });
  }
  return files;
}
