import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { discard } from '../image/store/trash.ts';
import { acquireLock, type HeldLock, tryLock } from '../kernel/flock.ts';
import type { Bind } from '../sandbox/specification.ts';
import type { BuildRun } from './build-run.ts';
import { cacheSize, thinOut } from './cache-tree.ts';
import type { CacheMount } from './request.ts';
import { BUILD_HOME } from './rpmbuild.ts';

/** Where a box sees its caches: where programs look for theirs (XDG Base Directory). */
const CACHE_HOME = `${BUILD_HOME}/.cache`;

/** Where distributions put ccache's own gcc and cc. */
const CCACHE_PATHS = ['/usr/lib64/ccache', '/usr/lib/ccache'];

/** How often a cache in use is measured, ms. */
const WATCH_INTERVAL = 10_000;

/** A cache may be this much larger than its size while builds write to it. */
const OVERRUN = 2;

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
  #timer: NodeJS.Timeout | undefined;

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
    if (caches.#open.length > 0) caches.#watch();
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
    if (!this.#open.some(({ mount }) => mount.name === 'ccache')) return {};
    const path = image.PATH ?? '/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin';
    return { PATH: [...CCACHE_PATHS, path].join(':') };
  }

  async #add(mount: CacheMount): Promise<void> {
    const { caller } = this.#run.request;
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(mount.name)) {
      throw new KilnError('E_ARGUMENT', `${mount.name} is no name for a cache`, {
        hint: 'take letters, digits, dots, lines: --cache ccache:2G',
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

  /** A cgroup does not count what is on a disk: a build that fills its cache is ended. */
  #watch(): void {
    const look = async () => {
      for (const { mount, path } of this.#open) {
        const size = await cacheSize(path, this.#run.signal).catch(() => Number.POSITIVE_INFINITY);
        if (size <= mount.bytes * OVERRUN) continue;
        this.#run.abort(
          new KilnError('E_BUILD_CACHE_FULL', `the build filled the cache ${mount.name}`, {
            hint: `it has ${size} bytes where ${mount.bytes} are its size: give more with --cache NAME:SIZE`,
          }),
        );
      }
      this.#timer?.refresh();
    };
    this.#timer = setTimeout(() => {
      look().catch((error) => this.#run.abort(error));
    }, WATCH_INTERVAL);
    this.#timer.unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
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
