import { chmodSync, lstatSync, mkdirSync, renameSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { acquireLock, withLock } from '../../host/files/flock.ts';
import { DiskRoom, DiskWatch } from '../../host/state/disk-watch.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { fetchPackages, localPackages } from '../../packages/repository/fetch-packages.ts';
import type { Lock, LockedPackage } from '../../packages/repository/lock/lock.ts';
import { readTrust, type Trust } from '../../packages/repository/trust/keys.ts';
import { MORE_DISK } from '../../packages/rpm/payload/plan.ts';
import {
  type Unpacked,
  type UnpackJob,
  type UnpackOptions,
  unpackRpms,
} from '../../packages/rpm/unpack.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { OnImageProgress } from '../progress.ts';
import {
  aboutPackages,
  type Confinement,
  checkFiles,
  checkIdentity,
  checkStored,
  confined,
  namingPackages,
  noteCheck,
  type PackageFile,
} from './check-signatures.ts';
import {
  contentSize,
  entryFile,
  mayRead,
  noteReader,
  type PackageUser,
  packageDirectory,
  reachOf,
  readStoredPackage,
  type StoredPackage,
  storedPackage,
  writeEntry,
} from './entry.ts';
import {
  callersLock,
  discard,
  ensureStore,
  openWorkDirectory,
  publishLock,
} from './work-directory.ts';

const ROOM = { who: 'unpacking the packages', hint: MORE_DISK };

interface FetchOptions {
  /** Who is not root, and whose own recipe names the packages. */
  readonly user?: PackageUser | undefined;
  readonly disk: number;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ObtainOptions extends Confinement, FetchOptions {
  /** Who waits for them; root by default. */
  readonly caller?: PackageUser | undefined;
}

/**
 * Keeps the lock's order. Missing packages are fetched, verified and unpacked.
 * @throws KilnError of the repositories; E_RPM_… for a package that is refused; E_DISK, E_DISK_LOW
 */
export async function obtainPackages(
  paths: StatePaths,
  lock: Lock,
  options: ObtainOptions,
): Promise<StoredPackage[]> {
  ensureStore(paths);
  takeRoom(lock, options);
  const stored = new Map<string, StoredPackage>();
  for (const { digest } of lock.packages) {
    const found = readStoredPackage(paths, digest);
    if (found !== undefined) stored.set(digest, found);
  }
  const check = (packages: readonly LockedPackage[]) =>
    checkStored(paths, lock.repositories, packages, {
      ...options,
      getFiles: (wanted) => fetchFiles(paths, { ...lock, packages: [...wanted] }, options),
    });
  // Entries that another recipe let in are checked with the keys of this one.
  for (const { digest } of await check(lock.packages.filter(({ digest }) => stored.has(digest)))) {
    await discard(paths, packageDirectory(paths, digest));
    stored.delete(digest);
  }
  const missing = lock.packages.filter(({ digest }) => !stored.has(digest));
  const added = await addPackages(paths, lock, missing, options);
  const byOthers = missing.filter(({ digest }) => !added.has(digest));
  const [wrong] = byOthers.length === 0 ? [] : await check(byOthers);
  if (wrong !== undefined) throw deletedError(wrong);
  await proveReader(paths, lock, added, options);
  const now = new Date();
  return lock.packages.map((wanted) => {
    const { digest } = wanted;
    const found = stored.get(digest) ?? added.get(digest) ?? readStoredPackage(paths, digest);
    if (found === undefined) throw deletedError(wanted);
    utimesSync(entryFile(packageDirectory(paths, digest)), now, now);
    return found;
  });
}

/** Root's recipes are trusted with what they download. @throws KilnError E_DISK */
function takeRoom({ packages }: Lock, { user, disk }: FetchOptions): void {
  if (user !== undefined)
    new DiskRoom(disk, ROOM).take(packages.reduce((sum, { size }) => sum + size, 0));
}

/** Fetches packages that only others have brought from the source that the user's own recipe names. */
async function proveReader(
  paths: StatePaths,
  lock: Lock,
  added: ReadonlyMap<string, StoredPackage>,
  options: ObtainOptions,
): Promise<void> {
  const { user } = options;
  if (user === undefined) return;
  const packages = lock.packages.filter(
    ({ digest }) => !added.has(digest) && !mayRead(paths, digest, user),
  );
  await fetchFiles(paths, { ...lock, packages }, options);
  for (const { digest } of packages) noteReader(packageDirectory(paths, digest), user, false);
}

function deletedError({ nevra }: LockedPackage): KilnError {
  return new KilnError('E_STORE', `${nevra} was deleted while it was needed`, {
    hint: 'try again',
  });
}

/**
 * Returns files for rpm to install, in the lock's order. They are checked as the lock asks, because rpm is told
 * not to check.
 * @throws KilnError of the repositories; E_RPM_… for a package that is refused
 */
export async function fetchSignedFiles(
  paths: StatePaths,
  lock: Lock,
  options: FetchOptions,
): Promise<string[]> {
  takeRoom(lock, options);
  const files = await fetchFiles(paths, lock, options);
  await checkFiles(lock, files, { apart: options.user !== undefined, signal: options.signal });
  return files;
}

/** Signatures are not checked here. */
async function fetchFiles(
  paths: StatePaths,
  lock: Lock,
  { user, onProgress, signal }: FetchOptions,
  onPackage?: (digest: string) => void,
): Promise<string[]> {
  const reach = reachOf(paths, user);
  const files = await fetchPackages(lock, { ...reach, onProgress, signal }, onPackage);
  return lock.packages.map((wanted) => files.get(wanted.digest)!);
}

async function addPackages(
  paths: StatePaths,
  lock: Lock,
  missing: readonly LockedPackage[],
  options: ObtainOptions,
): Promise<ReadonlyMap<string, StoredPackage>> {
  const added = new Map<string, StoredPackage>();
  if (missing.length === 0) return added;
  const largestFirst = [...missing].sort((a, b) => b.size - a.size);
  const part = { ...lock, packages: largestFirst };
  const arrivals = new Map(largestFirst.map(({ digest }) => [digest, deferred<void>()]));
  const stop = new AbortController();
  using watch = new DiskWatch(paths.store);
  const given = options.signal ? [options.signal] : [];
  const signal = AbortSignal.any([stop.signal, watch.signal, ...given]);
  const onPackage = (digest: string) => arrivals.get(digest)?.resolve();
  // Those who wait for a package get the error; if all have given up, nobody does.
  const fetching = awaitedLater(fetchFiles(paths, part, { ...options, signal }, onPackage));
  const ready = async (digest: string) => {
    await Promise.race([arrivals.get(digest)!.promise, fetching]);
  };
  // Of local files only the content is checked, while the children unpack those already checked.
  const local = localPackages(part);
  const files =
    local === undefined ? await fetching : largestFirst.map(({ digest }) => local.get(digest)!);
  const unpack = async () => {
    const wanted = largestFirst
      .map((locked, index): PackageFile => ({ locked, file: files[index]! }))
      .filter(({ locked }) => readStoredPackage(paths, locked.digest) === undefined);
    const room = new DiskRoom(options.disk, ROOM);
    let done = 0;
    const onDone = () =>
      options.onProgress?.({ kind: 'unpack', done: ++done, count: wanted.length });
    for (const repository of lock.repositories) {
      const part = wanted.filter(({ locked }) => locked.repository === repository.id);
      if (part.length === 0) continue;
      const isPublic =
        repository.source.kind !== 'directory' && lock.access?.get(repository.id) === undefined;
      const note = (directory: string) => noteReader(directory, options.user, isPublic);
      const trust = await readTrust(repository);
      const parts = { trust, onDone, ready, room, note };
      const { apart } = options;
      const groups = await confined(part, { apart, signal }, (group, signal) =>
        unpackPart(paths, group, { ...parts, signal }),
      );
      for (const stored of groups.flat()) added.set(stored.digest, stored);
    }
  };
  try {
    // One of the caller's builds at a time, so that two do not unpack the same packages twice.
    const lockPath = callersLock(paths, 'unpack', options.caller?.uid);
    await withLock(lockPath, unpack, { signal: options.signal });
    // If another process unpacked them meanwhile, they are checked all the same.
    await fetching;
  } catch (error) {
    stop.abort(error);
    throw error;
  } finally {
    await fetching.catch(() => undefined);
  }
  return added;
}

interface UnpackPartOptions {
  readonly trust: Trust;
  readonly onDone: () => void;
  readonly ready: (digest: string) => Promise<void>;
  readonly room: DiskRoom;
  readonly note: (directory: string) => void;
  readonly signal: AbortSignal | undefined;
}

/** The packages are of one repository and have one queue: one that takes over its child can affect only these. */
async function unpackPart(
  paths: StatePaths,
  wanted: readonly PackageFile[],
  { trust, onDone, ready, room, note, signal }: UnpackPartOptions,
): Promise<StoredPackage[]> {
  await using work = await openWorkDirectory(paths);
  const root = join(work.path, 'unpacked');
  mkdirSync(root);
  chmodSync(root, 0o755);
  const jobs = wanted.map(({ file }, index) => ({ file, into: String(index) }));
  const results: Unpacked[] = [];
  const entryOf = ({ job }: { job: UnpackJob }) => join(work.path, `entry-${job.into}`);
  const { keys, policy } = trust;
  const isReady = ({ into }: UnpackJob) => ready(wanted[Number(into)]!.locked.digest);
  const taken = new Map<UnpackJob, number>();
  const take = (job: UnpackJob, bytes: number) => {
    const before = taken.get(job) ?? 0;
    if (bytes <= before) return;
    room.take(bytes - before);
    taken.set(job, bytes);
  };
  const options: UnpackOptions = {
    ...{ root, keys, policy, signal, ready: isReady },
    unpackedSize: room.bytes,
    onProgress: take,
  };
  for await (const result of namingPackages(unpackRpms(jobs, options), wanted)) {
    if ('error' in result) throw aboutPackages(result.error, wanted);
    take(result.job, contentSize(result.package));
    const { locked, file } = wanted[Number(result.job.into)]!;
    checkIdentity(locked, result.package);
    const directory = entryOf(result);
    mkdirSync(directory, { mode: 0o700 });
    writeEntry(directory, file, result.package);
    note(directory);
    noteCheck(directory, trust, result.package.signatures);
    results.push(result);
    onDone();
  }
  // The children are dead, so nobody else changes the trees any more.
  const digestOf = ({ job }: Unpacked) => wanted[Number(job.into)]!.locked.digest;
  const isMissing = (result: Unpacked) => readStoredPackage(paths, digestOf(result)) === undefined;
  // What another caller has unpacked meanwhile is read before the lock, for which everybody waits.
  const missing = results.filter(isMissing);
  for (const result of missing) {
    const tree = join(entryOf(result), 'tree');
    renameSync(join(root, result.job.into), tree);
    if (!lstatSync(tree).isDirectory()) throw new TypeError(`${tree} is not a folder`);
  }
  const added: StoredPackage[] = [];
  await using _published = await acquireLock(publishLock(paths), { signal });
  for (const result of missing) {
    if (!isMissing(result)) continue;
    const target = packageDirectory(paths, digestOf(result));
    await discard(paths, target);
    renameSync(entryOf(result), target);
    added.push(storedPackage(target, digestOf(result), result.package));
  }
  return added;
}
