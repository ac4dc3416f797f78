/**
 * A local repository that is published as a whole: readers see the packages of one moment.
 *
 *     pool/SHA256.rpm, .json    every package once, and what its header says
 *     snapshots/ID/             links to packages, and repodata/; never changes
 *     current                   link to the newest snapshot
 *     lock                      held by whoever publishes
 */
import { hash, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { link, mkdir, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { acquireLock, tryLock, withLock } from '../../../host/files/flock.ts';
import { Folder, makeDirectory } from '../../../host/files/folder.ts';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { addToPool, type PooledPackage, pooledFile, prunePool } from './pool.ts';
import { syncDirectory, writeRepodata } from './repodata.ts';

/** A state of a repository in use: it does not change until this is disposed of. */
export interface Snapshot extends AsyncDisposable {
  readonly id: string;
  readonly path: string;
  readonly packages: readonly PooledPackage[];
  share(): Promise<Snapshot>;
}

export interface RepositoryFile {
  readonly path: string;
  readonly sha256?: string;
}

interface PublishOptions {
  readonly keep?: ReadonlySet<string>;
  readonly signal?: AbortSignal | undefined;
}

const LEASE = '.lease';

/**
 * Makes `files` the content of the local repository in `directory` (absolute; made if missing), in place of what was
 * there. The change is one rename; users of an older snapshot keep it, unused ones are deleted. Headers are read in a
 * confined child, once for each package. Equal packages give equal bytes.
 * @throws KilnError E_RPM_FORMAT, E_RPM_DIGEST, E_REPOSITORY_COLLISION (two different packages of
 *   one name, version and architecture); the signal's reason
 */
export async function publishRepository(
  directory: string,
  files: readonly RepositoryFile[],
  { keep = new Set(), signal }: PublishOptions = {},
): Promise<Snapshot> {
  using places = await openPlaces(directory);
  const { top, snapshots } = places;
  const pool = places.pool.path;
  return await withLock(
    join(top.path, 'lock'),
    async () => {
      const packages = distinct(await addToPool(pool, files, signal));
      const id = snapshotId(packages);
      await make(pool, join(snapshots.path, id), packages);
      const snapshot = await lease(id, join(directory, 'snapshots', id), packages);
      await point(top.path, id);
      await sweep(snapshots.path, new Set([...keep, id]));
      await prunePool(pool, new Set(packages.map(({ sha256 }) => sha256)));
      return snapshot;
    },
    { signal },
  );
}

/** The folders of a repository. Others may be able to replace them by links, which are not followed. */
async function openPlaces(directory: string) {
  makeDirectory(dirname(directory));
  const opened = new DisposableStack();
  try {
    using parent = Folder.open(dirname(directory));
    const top = opened.use(parent.inner(basename(directory)));
    const snapshots = opened.use(top.inner('snapshots'));
    const pool = opened.use(top.inner('pool'));
    return { top, snapshots, pool, [Symbol.dispose]: () => opened.dispose() };
  } catch (cause) {
    opened.dispose();
    throw new KilnError('E_REPOSITORY_WRITE', `the repository ${directory} cannot be written`, {
      cause,
      hint: 'it and the folders in it must be folders that can be written, and no links',
    });
  }
}

async function lease(
  id: string,
  path: string,
  packages: readonly PooledPackage[],
): Promise<Snapshot> {
  const held = await acquireLock(join(path, LEASE), { shared: true, existing: true });
  return {
    id,
    path,
    packages,
    share: () => lease(id, path, packages),
    [Symbol.asyncDispose]: () => held.release(),
  };
}

function distinct(packages: readonly PooledPackage[]): PooledPackage[] {
  const byLocation = new Map<string, PooledPackage>();
  for (const entry of packages) {
    const other = byLocation.get(entry.location);
    if (other !== undefined && other.sha256 !== entry.sha256) {
      throw new KilnError(
        'E_REPOSITORY_COLLISION',
        `two different packages are called ${entry.location}`,
        { hint: 'give one of them another release', details: { location: entry.location } },
      );
    }
    byLocation.set(entry.location, entry);
  }
  return [...byLocation.values()].sort((a, b) => (a.location < b.location ? -1 : 1));
}

function snapshotId(packages: readonly PooledPackage[]): string {
  const lines = packages.map(({ format, sha256 }) => `${format} ${sha256}\n`);
  return hash('sha256', lines.join(''), 'hex');
}

async function make(pool: string, path: string, packages: readonly PooledPackage[]): Promise<void> {
  if (existsSync(path)) return;
  const temporary = `${path}.${randomUUID()}.tmp`;
  await mkdir(temporary, { mode: 0o755 });
  try {
    for (const { sha256, location } of packages) {
      await link(pooledFile(pool, sha256), join(temporary, location));
    }
    const revision = Math.max(0, ...packages.map(({ buildTime }) => buildTime ?? 0));
    const elements = packages.map((entry) => entry.elements);
    await writeRepodata(temporary, elements, revision);
    await writeFile(join(temporary, LEASE), '', { mode: 0o600, flag: 'wx' });
    await syncDirectory(temporary);
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  } finally {
    await removeTree(temporary);
  }
}

async function point(directory: string, id: string): Promise<void> {
  const temporary = join(directory, 'current.tmp');
  await rm(temporary, { force: true });
  await symlink(join('snapshots', id), temporary);
  await rename(temporary, join(directory, 'current'));
}

async function sweep(snapshots: string, keep: ReadonlySet<string>): Promise<void> {
  for (const name of await readdir(snapshots)) {
    if (keep.has(name)) continue;
    const path = join(snapshots, name);
    if (name.endsWith('.tmp')) {
      await removeTree(path);
      continue;
    }
    await using unused = await tryLock(join(path, LEASE));
    if (unused === undefined) continue;
    const away = `${path}.${randomUUID()}.tmp`;
    await rename(path, away);
    await removeTree(away);
  }
}
