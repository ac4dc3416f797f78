import { closeSync } from 'node:fs';
import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { O_PATH } from '../../../host/files/at.ts';
import { acquireLock, type HeldLock, tryLock } from '../../../host/files/flock.ts';
import { DiskWatch } from '../../../host/state/disk-watch.ts';
import { discard } from '../../../image/store/work-directory.ts';
import { openInTree } from '../../../image/tree/path.ts';
import type { Bind } from '../../../sandbox/policy/specification.ts';
import type { BuildRun } from '../build-run.ts';
import type { BuildSandbox } from '../build-sandbox.ts';
import type { CacheMount } from '../request.ts';
import { BUILD_HOME } from '../rpmbuild.ts';
import { MAX_ENTRIES, thinOut } from './cache-tree.ts';

/** Where a sandbox sees its caches: where programs look for theirs (XDG Base Directory). */
const CACHE_HOME = `${BUILD_HOME}/.cache`;

/** The name of the cache that is ccache's. */
const CCACHE = 'ccache';

/** Where distributions put ccache's own gcc and cc. */
const CCACHE_PATHS = ['/usr/lib64/ccache', '/usr/lib/ccache'];

/** A build may write so many times its size to a cache, and so many bytes to a small one. */
const OVERRUN = 2;
const LEAST_OVERRUN = 4 * 2 ** 20;

interface OpenCache {
  readonly mount: CacheMount;
  readonly path: string;
  readonly lock: HeldLock;
}

/**
 * The caches that a build shares with others of the same caller. What is in them is as trustworthy
 * as all builds that ever wrote to them. Disposing of it brings them back to their size, as soon as
 * nobody uses them.
 */
export class Caches implements AsyncDisposable {
  readonly #run: BuildRun;
  readonly #open: OpenCache[] = [];
  readonly #watches = new DisposableStack();

  private constructor(run: BuildRun) {
    this.#run = run;
  }

  static async open(run: BuildRun): Promise<Caches> {
    const caches = new Caches(run);
    try {
      for (const mount of run.request.caches ?? []) await caches.#add(mount);
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
      target: `${CACHE_HOME}/${mount.name}`,
      readonly: false,
      own: true,
    }));
  }

  /** What makes programs use their cache; to be added to the image's environment. */
  environment(image: Readonly<Record<string, string>>): Record<string, string> {
    const ccache = this.#open.find(({ mount }) => mount.name === CCACHE);
    if (ccache === undefined) return {};
    const path = image.PATH ?? '/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin';
    return {
      PATH: [...CCACHE_PATHS, path].join(':'),
      // Where ccache 3 looks, it would find nothing.
      CCACHE_DIR: `${CACHE_HOME}/${CCACHE}`,
      // It evicts by itself, long before the build is ended for filling its cache.
      CCACHE_MAXSIZE: `${Math.max(1, Math.floor(ccache.mount.bytes / 1024))}Ki`,
    };
  }

  /** Warns of an image without the program that the cache is for. */
  lookAt(sandbox: BuildSandbox): void {
    if (!this.#open.some(({ mount }) => mount.name === CCACHE)) return;
    const root = sandbox.sandbox.openRoot();
    try {
      const program = openInTree(root, '/usr/bin/ccache', O_PATH);
      if (program !== undefined) {
        closeSync(program);
        return;
      }
    } finally {
      closeSync(root);
    }
    const message =
      'the image has no ccache, so its cache stays empty: add --additional-package ccache';
    this.#run.warn({ code: 'no-ccache', message });
  }

  async #add(mount: CacheMount): Promise<void> {
    const { caller } = this.#run.request;
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(mount.name)) {
      throw new KilnError('E_ARGUMENT', `${mount.name} cannot be the name of a cache`, {
        hint: 'use letters, digits, dots, dashes and underscores: --cache ccache:2G',
      });
    }
    const folder = join(this.#run.engine.paths.cache, 'builds', String(caller.uid));
    const path = join(folder, mount.name);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const lock = await acquireLock(`${path}.lock`, { shared: true, signal: this.#run.signal });
    this.#open.push({ mount, path, lock });
    await mkdir(path, { recursive: true, mode: 0o700 });
    await chown(path, caller.uid, caller.gid);
  }

  /** A cgroup does not count what is on a disk: a build that fills its cache, or the disk, is ended. */
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
      watch.signal.addEventListener('abort', () => this.#run.abort(fullError(mount, watch)), {
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
      // Nothing in it is worth finding out what is wrong with it.
      await discard(this.#run.engine.paths, path);
    }
  }
}

/** The failure of a build that fills a cache; of the disk itself, the watch's own. */
function fullError(mount: CacheMount, { signal }: DiskWatch): unknown {
  const { reason } = signal;
  if (!(reason instanceof KilnError) || reason.code === 'E_DISK_LOW') return reason;
  return new KilnError('E_BUILD_CACHE_FULL', `the build filled the cache ${mount.name}`, {
    hint: `its size is ${mount.bytes} bytes: give more with --cache NAME:SIZE`,
    cause: reason,
  });
}
