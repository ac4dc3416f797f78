import { existsSync } from 'node:fs';
import { chown, mkdir, readdir, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { sizeInWords } from '../../../host/calls/system-error.ts';
import { existsInTree } from '../../../host/files/at.ts';
import { acquireLock, type HeldLock, tryLock } from '../../../host/files/flock.ts';
import { ownPath } from '../../../host/files/held.ts';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { treeUsage } from '../../../host/files/tree-usage.ts';
import { DiskWatch } from '../../../host/state/disk-watch.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { buildCachesOf, storageLeft } from '../../../image/store/user-storage.ts';
import { discard } from '../../../image/store/work-directory.ts';
import type { CacheMount } from '../../../options/build.ts';
import { BUILD_CACHES } from '../../../packages/repository/cache.ts';
import type { Pruned, PruneOptions } from '../../../packages/repository/prune.ts';
import type { Bind } from '../../../sandbox/policy/specification.ts';
import type { BuildJob } from '../build-job.ts';
import type { BuildSandbox } from '../build-sandbox.ts';
import { BUILD_HOME } from '../commands.ts';
import { MAX_ENTRIES, thinOut } from './cache-tree.ts';

/** Where programs look for their caches (XDG Base Directory). */
const CACHE_HOME = `${BUILD_HOME}/.cache`;

const CCACHE = 'ccache';

/** Where distributions put ccache's own gcc and cc. */
const CCACHE_PATHS = ['/usr/lib64/ccache', '/usr/lib/ccache'];

/** A build may write this many times its size to a cache, and this many bytes to a small one. */
const OVERRUN = 2;
const LEAST_OVERRUN = 4 * 2 ** 20;

interface OpenCache {
  readonly mount: CacheMount;
  readonly path: string;
  readonly lock: HeldLock;
}

/**
 * The caches that a build shares with others of the same caller. Their content is as trustworthy as all builds that
 * ever wrote to them. Disposal brings them back to their size when no other build uses them.
 */
export class Caches implements AsyncDisposable {
  readonly #job: BuildJob;
  readonly #open: OpenCache[] = [];
  readonly #watches = new DisposableStack();

  private constructor(job: BuildJob) {
    this.#job = job;
  }

  static async open(job: BuildJob): Promise<Caches> {
    const caches = new Caches(job);
    try {
      for (const mount of job.request.caches ?? []) await caches.#add(mount);
      await caches.#requireStorage();
    } catch (error) {
      await caches[Symbol.asyncDispose]();
      throw error;
    }
    caches.#watchAll();
    return caches;
  }

  get binds(): Bind[] {
    return this.#open.map(({ mount, path }) => ({
      source: path,
      place: ownPath(path),
      target: `${CACHE_HOME}/${mount.name}`,
      readonly: false,
      own: true,
    }));
  }

  environment(image: Readonly<Record<string, string>>): Record<string, string> {
    const ccache = this.#open.find(({ mount }) => mount.name === CCACHE);
    if (ccache === undefined) return {};
    const path = image.PATH ?? '/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin';
    return {
      PATH: [...CCACHE_PATHS, path].join(':'),
      // ccache 3 looks elsewhere by default.
      CCACHE_DIR: `${CACHE_HOME}/${CCACHE}`,
      // ccache evicts by itself, long before the build is ended for filling its cache.
      CCACHE_MAXSIZE: `${Math.max(1, Math.floor(ccache.mount.bytes / 1024))}Ki`,
    };
  }

  lookAt(sandbox: BuildSandbox): void {
    if (!this.#open.some(({ mount }) => mount.name === CCACHE)) return;
    // Of a machine the files cannot be seen.
    if (sandbox.sandbox.tree.inside !== undefined) return;
    using root = closing(sandbox.sandbox.tree.openRoot());
    if (existsInTree(root.fd, '/usr/bin/ccache')) return;
    const message =
      'the image has no ccache, so its cache stays empty: add --additional-package ccache';
    this.#job.warn({ code: 'no-ccache', message });
  }

  async #add(mount: CacheMount): Promise<void> {
    const { engine, request } = this.#job;
    const { caller } = request;
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(mount.name)) {
      throw new KilnError('E_ARGUMENT', `${mount.name} cannot be the name of a cache`, {
        hint: 'use letters, digits, dots, dashes and underscores: --cache ccache:2G',
      });
    }
    // Root's calls with sudo(1) have the ids of a user, whose own builds must not prepare what root's find.
    const folder =
      engine.owner === undefined
        ? join(engine.paths.cache, BUILD_CACHES, String(caller.uid))
        : buildCachesOf(engine.paths, engine.owner);
    const path = join(folder, mount.name);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const lock = await acquireLock(`${path}.lock`, { shared: true, signal: this.#job.signal });
    this.#open.push({ mount, path, lock });
    const now = new Date();
    await utimes(`${path}.lock`, now, now);
    await mkdir(path, { recursive: true, mode: 0o700 });
    await chown(path, caller.uid, caller.gid);
  }

  /** Room for what the caches may become. */
  async #requireStorage(): Promise<void> {
    const { paths, owner } = this.#job.engine;
    if (owner === undefined || this.#open.length === 0) return;
    const growth = this.#open.map(({ mount: { bytes }, path }) =>
      Math.max(0, bytes - treeUsage(path, { bytes, entries: MAX_ENTRIES }).bytes),
    );
    await storageLeft(
      paths,
      owner,
      growth.reduce((sum, bytes) => sum + bytes, 0),
    );
  }

  /** A cgroup does not count files on a disk: a build that fills its cache, or the disk, is ended here. */
  #watchAll(): void {
    for (const { mount, path } of this.#open) {
      const watch = this.#watches.use(
        new DiskWatch(path, {
          tree: path,
          bytes: Math.max(OVERRUN * mount.bytes, LEAST_OVERRUN),
          entries: MAX_ENTRIES,
          who: 'the build',
          hint: 'give more with --cache NAME:SIZE',
        }),
      );
      watch.signal.addEventListener('abort', () => this.#job.abort(fullError(mount, watch)), {
        once: true,
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watches.dispose();
    for (const { mount, path, lock } of this.#open.splice(0)) {
      await lock.release();
      await this.#settle(mount, path);
    }
  }

  async #settle(mount: CacheMount, path: string): Promise<void> {
    await using alone = await tryLock(`${path}.lock`);
    if (alone === undefined) return;
    try {
      await thinOut(path, mount.bytes);
    } catch {
      await discard(this.#job.engine.paths, path);
    }
  }
}

/** The folders of root's callers, each with caches. */
export async function rootsBuildCaches({ cache }: StatePaths): Promise<string[]> {
  const all = join(cache, BUILD_CACHES);
  return (await readdir(all).catch(() => [])).map((uid) => join(all, uid));
}

/** Those in `folder` that no build uses, and that none has used for this time, milliseconds. Each counts as a file. */
export async function removeBuildCaches(
  paths: StatePaths,
  folder: string,
  { maxAge = Number.POSITIVE_INFINITY, dryRun }: PruneOptions,
): Promise<Pruned> {
  const removed = { files: 0, bytes: 0 };
  for (const name of await readdir(folder).catch(() => [])) {
    if (!name.endsWith('.lock')) continue;
    const lock = join(folder, name);
    if (Date.now() - (await stat(lock)).mtimeMs < maxAge) continue;
    await using alone = await tryLock(lock);
    const path = lock.slice(0, -'.lock'.length);
    if (alone === undefined || !existsSync(path)) continue;
    removed.files++;
    removed.bytes += treeUsage(path, {
      bytes: Number.POSITIVE_INFINITY,
      entries: MAX_ENTRIES,
    }).bytes;
    const trashed = dryRun === true ? undefined : await discard(paths, path);
    if (trashed !== undefined) await removeTree(trashed);
  }
  return removed;
}

function fullError(mount: CacheMount, { signal }: DiskWatch): unknown {
  const { reason } = signal;
  if (!(reason instanceof KilnError) || reason.code === 'E_DISK_LOW') return reason;
  return new KilnError('E_BUILD_CACHE_FULL', `the build filled the cache ${mount.name}`, {
    hint: `its size is ${sizeInWords(mount.bytes)}: give more with --cache NAME:SIZE`,
    cause: reason,
  });
}
