import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { withLock } from '../../host/files/flock.ts';
import { DiskWatch, diskExceeded } from '../../host/state/disk-watch.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { fetchPackages, localPackages } from '../../packages/repository/fetch-packages.ts';
import type { Lock, LockedPackage, LockedRepository } from '../../packages/repository/lock/lock.ts';
import { readTrust } from '../../packages/repository/trust/trust.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import {
  type Unpacked,
  type UnpackJob,
  type UnpackOptions,
  unpackRpms,
} from '../../packages/rpm/unpack.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { OnImageProgress } from '../progress.ts';
import { aboutPackages, namingPackages } from './about-package.ts';
import { checkFiles, checkIdentity, checkStored, noteCheck } from './check-signatures.ts';
import {
  entryFile,
  packageDirectory,
  readStoredPackage,
  type StoredPackage,
  storedPackage,
  writeEntry,
} from './entry.ts';
import { mayRead, noteReader, type PackageUser, reachOf } from './package-readers.ts';
import { discard, ensureStore, lockFile, openWorkDirectory } from './work-directory.ts';

export interface ObtainOptions {
  /** The user who is not root, whose own recipe names them. */
  readonly user?: PackageUser | undefined;
  /** The most bytes that all packages may unpack to. */
  readonly disk: number;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The packages of a lock, unpacked, in its order. Missing ones are fetched, verified and unpacked.
 * @throws KilnError of the repositories; E_RPM_… for a package that is refused; E_DISK, E_DISK_LOW.
 */
export async function obtainPackages(
  paths: StatePaths,
  lock: Lock,
  options: ObtainOptions,
): Promise<StoredPackage[]> {
  ensureStore(paths);
  const present = lock.packages.map((wanted) => readStoredPackage(paths, wanted.digest));
  const found = lock.packages.filter((_, index) => present[index] !== undefined);
  const check = (packages: readonly LockedPackage[]) =>
    checkStored(paths, lock, packages, {
      getFiles: (wanted) => fetchFiles(paths, { ...lock, packages: [...wanted] }, options),
      signal: options.signal,
    });
  // Entries that another recipe let in are checked with the keys of this one.
  const damaged = new Set(await check(found));
  for (const { digest } of damaged) await discard(paths, packageDirectory(paths, digest));
  for (const [index, wanted] of lock.packages.entries()) {
    if (damaged.has(wanted)) present[index] = undefined;
  }
  const missing = lock.packages.filter((_, index) => present[index] === undefined);
  const added =
    missing.length === 0
      ? new Map<string, StoredPackage>()
      : await addPackages(paths, lock, missing, options);
  const byOthers = missing.filter(({ digest }) => !added.has(digest));
  const [wrong] = byOthers.length === 0 ? [] : await check(byOthers);
  if (wrong !== undefined) throw wasDeleted(wrong);
  await proveReader(paths, lock, added, options);
  const now = new Date();
  return lock.packages.map((wanted, index) => {
    const stored =
      present[index] ?? added.get(wanted.digest) ?? readStoredPackage(paths, wanted.digest);
    if (stored === undefined) throw wasDeleted(wanted);
    utimesSync(entryFile(packageDirectory(paths, wanted.digest)), now, now);
    return stored;
  });
}

/** A user has to have what others have brought: it is fetched from where the user's own recipe says. */
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

function wasDeleted({ nevra }: LockedPackage): KilnError {
  return new KilnError('E_STORE', `${nevra} was deleted while it was needed`, {
    hint: 'try again',
  });
}

/**
 * The lock that keeps packages from being collected: shared for makers of images, exclusive for garbage
 * collection.
 */
export function packagesLock(paths: StatePaths): string {
  return lockFile(paths, 'packages');
}

/**
 * The package files of a lock for rpm to install, in its order, fetched if they are missing. They are checked
 * as the lock asks, because rpm is told not to check.
 * @throws KilnError of the repositories; E_RPM_… for a package that is refused.
 */
export async function fetchSignedFiles(
  paths: StatePaths,
  lock: Lock,
  options: Pick<ObtainOptions, 'user' | 'onProgress' | 'signal'>,
): Promise<string[]> {
  const files = await fetchFiles(paths, lock, options);
  await checkFiles(lock, files, options.signal);
  return files;
}

/**
 * The package files of a lock in its order, fetched if they are missing. Their signatures are not checked here.
 */
async function fetchFiles(
  paths: StatePaths,
  lock: Lock,
  {
    user,
    onProgress,
    signal,
    onPackage,
  }: Pick<ObtainOptions, 'user' | 'onProgress' | 'signal'> & {
    readonly onPackage?: (digest: string) => void;
  },
): Promise<string[]> {
  const reach = reachOf(paths, user);
  const files = await fetchPackages(lock, { ...reach, onProgress, signal, onPackage });
  return lock.packages.map((wanted) => files.get(wanted.digest)!);
}

/** Returns the packages unpacked here, by digest; another process unpacked the rest. */
async function addPackages(
  paths: StatePaths,
  lock: Lock,
  missing: readonly LockedPackage[],
  options: ObtainOptions,
): Promise<ReadonlyMap<string, StoredPackage>> {
  const added = new Map<string, StoredPackage>();
  // The order of unpacking.
  const largestFirst = [...missing].sort((a, b) => b.size - a.size);
  const part = { ...lock, packages: largestFirst };
  const arrivals = new Map(largestFirst.map(({ digest }) => [digest, deferred<void>()]));
  const stop = new AbortController();
  using watch = new DiskWatch(paths.store);
  const given = options.signal ? [options.signal] : [];
  const signal = AbortSignal.any([stop.signal, watch.signal, ...given]);
  let fetching: Promise<string[]> | undefined;
  const fetched = () => {
    if (fetching !== undefined) return fetching;
    const onPackage = (digest: string) => arrivals.get(digest)?.resolve();
    // Those who wait for a package get the error; if all have given up, nobody does.
    fetching = awaitedLater(fetchFiles(paths, part, { ...options, signal, onPackage }));
    return fetching;
  };
  const ready = async (digest: string) => {
    await Promise.race([arrivals.get(digest)!.promise, fetched()]);
  };
  // For local files only the content is checked, one after the other, while the children start and unpack those
  // already checked.
  const local = localPackages(part);
  const files =
    local === undefined ? await fetched() : largestFirst.map(({ digest }) => local.get(digest)!);
  const unpack = async () => {
    const wanted = largestFirst
      .map((locked, index): Wanted => ({ locked, file: files[index]! }))
      .filter(({ locked }) => readStoredPackage(paths, locked.digest) === undefined);
    const room = new Room(options.disk);
    let done = 0;
    const onDone = () =>
      options.onProgress?.({ kind: 'unpack', done: ++done, count: wanted.length });
    for (const repository of lock.repositories) {
      const part = wanted.filter(({ locked }) => locked.repository === repository.id);
      if (part.length === 0) continue;
      const isPublic =
        repository.source.kind !== 'directory' && lock.access?.of(repository.id) === undefined;
      const note = (directory: string) => noteReader(directory, options.user, isPublic);
      const parts = { onDone, ready, room, note, signal };
      for (const stored of await unpackPart(paths, repository, part, parts)) {
        added.set(stored.digest, stored);
      }
    }
  };
  try {
    // One build at a time, so that two builds do not unpack the same packages twice.
    await withLock(lockFile(paths, 'unpack'), unpack, { signal: options.signal });
    // If another process unpacked them meanwhile, they are checked all the same.
    await fetching;
  } catch (error) {
    stop.abort(error);
    throw error;
  } finally {
    await fetching?.catch(() => undefined);
  }
  return added;
}

interface UnpackPartOptions {
  readonly onDone: () => void;
  /** Resolves when the file is verified; it is not read before. */
  readonly ready: (digest: string) => Promise<void>;
  /** The room for all packages together. */
  readonly room: Room;
  /** Notes in its folder who has brought a package. */
  readonly note: (directory: string) => void;
  readonly signal: AbortSignal | undefined;
}

/** The bytes that packages may still unpack to. */
class Room {
  readonly bytes: number;
  #used = 0;

  constructor(bytes: number) {
    this.bytes = bytes;
  }

  /** @throws KilnError E_DISK */
  take(bytes: number): void {
    this.#used += bytes;
    if (this.#used <= this.bytes) return;
    const hint = '`disk` in the recipe of the image allows more, as `disk: 64G`';
    throw diskExceeded('unpacking the packages', `more than ${this.bytes} bytes`, hint);
  }
}

interface Wanted {
  readonly locked: LockedPackage;
  readonly file: string;
}

/**
 * Unpacks packages with the same trust settings in one queue: a package that takes over its child can affect
 * only these.
 */
async function unpackPart(
  paths: StatePaths,
  repository: LockedRepository,
  wanted: readonly Wanted[],
  { onDone, ready, room, note, signal }: UnpackPartOptions,
): Promise<StoredPackage[]> {
  await using work = await openWorkDirectory(paths);
  const root = join(work.path, 'unpacked');
  mkdirSync(root);
  chmodSync(root, 0o755);
  const jobs = wanted.map(({ file }, index) => ({ file, into: String(index) }));
  const results: Unpacked[] = [];
  const entryOf = ({ job }: Pick<Unpacked, 'job'>) => join(work.path, `entry-${job.into}`);
  const trust = await readTrust(repository);
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
    // Everything is prepared, so only moving the tree remains.
    const directory = entryOf(result);
    mkdirSync(directory, { mode: 0o700 });
    copyHeader(file, join(directory, 'header.rpm'), result.package.headerRange.end);
    writeEntry(directory, result.package, result.warnings);
    note(directory);
    noteCheck(directory, trust, result.package.signatures);
    results.push(result);
    onDone();
  }
  // The children are dead, so nobody else changes the trees any more.
  const added: StoredPackage[] = [];
  for (const result of results) {
    const { locked } = wanted[Number(result.job.into)]!;
    const directory = entryOf(result);
    const tree = join(directory, 'tree');
    renameSync(join(root, result.job.into), tree);
    if (!lstatSync(tree).isDirectory()) throw new TypeError(`${tree} is no directory`);
    const target = packageDirectory(paths, locked.digest);
    await discard(paths, target);
    renameSync(directory, target);
    added.push(storedPackage(target, locked.digest, result.package, result.warnings));
  }
  return added;
}

/** Bytes of the files' contents; hard links count once. */
function contentSize({ files }: RpmPackage): number {
  const linked = new Set<string>();
  let sum = 0;
  for (const { type, size, nlink, device, inode, digest } of files) {
    if (type !== 'file') continue;
    const key = `${device}:${inode}:${digest}`;
    if (nlink > 1 && linked.has(key)) continue;
    linked.add(key);
    sum += size;
  }
  return sum;
}

/** Copies the first `end` bytes: everything before the payload. */
function copyHeader(from: string, to: string, end: number): void {
  const bytes = Buffer.alloc(end);
  const fd = openSync(from, 'r');
  try {
    for (let at = 0; at < end; ) {
      const count = readSync(fd, bytes, at, end - at, at);
      if (count === 0)
        throw new KilnError('E_STORE', `${from} became shorter while it was copied`, {
          hint: 'is its disk or network share at fault? Try again',
        });
      at += count;
    }
  } finally {
    closeSync(fd);
  }
  writeFileSync(to, bytes);
}
