import { existsSync, realpathSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isKilnCode, KilnError } from '../../../errors.ts';
import { DEFAULT_DISK } from '../../../host/state/disk-watch.ts';
import { fetchSignedFiles } from '../../../image/store/packages.ts';
import { VERIFIED_BEFORE } from '../../../image/transaction/transaction-sandbox.ts';
import { localRepository, type Repository } from '../../../packages/repository/configuration.ts';
import type { Lock } from '../../../packages/repository/lock/lock.ts';
import { openRepositories } from '../../../packages/repository/open.ts';
import type { PooledPackage } from '../../../packages/repository/publish/pool.ts';
import { publishRepository } from '../../../packages/repository/publish/snapshot.ts';
import type { RefreshMode } from '../../../packages/repository/refresh.ts';
import { solve } from '../../../packages/solver/solve.ts';
import type { ImageModules } from '../../../recipe/load-image-recipe.ts';
import { missingRequires } from '../../rpmbuild/buildroot/layer.ts';
import type { MockRoot } from './root.ts';
import {
  changing,
  type InstalledPackage,
  installedPackages,
  namedBy,
  type PackageSession,
  PROTECTED,
  transactionError,
  withPackages,
} from './transaction.ts';

export interface PackageSources {
  readonly arch: string;
  readonly repositories: readonly Repository[];
  /** `--addrepo`: packages from these are kept with the root, because a later call may not name the repository. */
  readonly added: readonly Repository[];
  /** Ids of repositories that only this call enables (`--enablerepo`): their packages are kept as well. */
  readonly passing: readonly string[];
  readonly exclude: readonly string[];
  readonly modules?: ImageModules | undefined;
  readonly recommends: boolean;
  readonly refresh: RefreshMode;
}

interface InstallRequest {
  readonly sources: PackageSources;
  readonly install: readonly string[];
  readonly requires?: readonly string[];
  /** Packages to update, as names, globs, NEVRAs, or `all`; other installed packages stay as they are. */
  readonly renew?: readonly string[] | 'all';
  readonly signal?: AbortSignal | undefined;
  readonly log: (text: string) => void;
}

/** rpm itself checks only the dependencies. */
const UPGRADE = ['-U', '--oldpackage', ...VERIFIED_BEFORE];

/**
 * Installs packages and their dependencies into a root: solved on the host, fetched and verified as for an image,
 * and installed by the root's own rpm in a sandbox.
 * @throws KilnError of the solver and the repositories; E_MOCK_PACKAGES when rpm fails, or `renew` names a package
 * that is not installed
 */
export async function installPackages(root: MockRoot, request: InstallRequest): Promise<void> {
  const { signal, log } = request;
  const onOutput = (chunk: Buffer) => log(chunk.toString('utf8'));
  await withPackages(root, { signal, onOutput }, async (session) => {
    const installed = await installedPackages(session.sandbox, signal);
    const { lock, erased } = await solveFor(root, request, installed);
    const there = new Set(installed.map(({ nevra }) => nevra));
    const missing = lock.packages.filter(({ nevra }) => !there.has(nevra));
    if (missing.length === 0) {
      log('Nothing to do.\n');
      return;
    }
    for (const { nevra, repository } of missing) log(`Installing ${nevra} (${repository})\n`);
    for (const { nevra } of erased) log(`Removing ${nevra}\n`);
    await upgrade(root, session, { lock: { ...lock, packages: missing }, erased }, request);
    root.setPackages(lock.packages);
  });
}

async function upgrade(
  root: MockRoot,
  session: PackageSession,
  { lock, erased }: Change,
  { signal, sources }: InstallRequest,
): Promise<void> {
  const files = await fetchSignedFiles(root.engine.paths, lock, { disk: DEFAULT_DISK, signal });
  const added = new Set([...sources.passing, ...sources.added.map(({ id }) => id)]);
  const foreign = files.filter((_, index) => added.has(lock.packages[index]!.repository));
  if (foreign.length > 0) await addOwnPackages(root, foreign, signal);
  const lent = files.map((file) => session.lend(file));
  await changing(root, async () => {
    // The solver has looked at all of it: rpm would refuse the first half.
    const forced = erased.length === 0 ? [] : ['--nodeps', '--replacefiles'];
    const result = await session.rpm([...UPGRADE, ...forced, ...lent]);
    if (result.exitCode !== 0) {
      // A scriptlet that fails late makes rpm fail although the package is installed.
      const left = await installedPackages(session.sandbox, signal);
      const there = new Set(left.map(({ nevra }) => nevra));
      if (!lock.packages.every(({ nevra }) => there.has(nevra))) {
        await root.note({ changing: false });
        throw transactionError('the packages cannot be installed', result);
      }
    }
    if (erased.length === 0) return;
    const removed = await session.rpm([
      '-e',
      '--nodeps',
      ...erased.map(({ nevra }) => rpmName(nevra)),
    ]);
    if (removed.exitCode !== 0)
      throw transactionError('packages that conflict cannot be removed', removed);
  });
}

/** What becomes of a root: packages that it then has, and those that make room. */
interface Change {
  readonly lock: Lock;
  readonly erased: readonly InstalledPackage[];
}

/**
 * Solves like dnf with --allowerasing, which is mock's default: installed packages stay as they are unless a new one
 * needs another version, or conflicts with them.
 */
async function solveFor(
  root: MockRoot,
  request: InstallRequest,
  installed: readonly InstalledPackage[],
): Promise<Change> {
  const { sources, signal } = request;
  const { paths } = root.engine;
  const { arch, exclude, modules, recommends, refresh } = sources;
  const own = ownRepository(root);
  const repositories = [...sources.repositories, ...sources.added, ...(own ? [own] : [])];
  const set = await openRepositories(repositories, { paths, refresh, signal });
  const renewed = namesOf(installed, request.renew ?? []);
  const stays = ({ name }: { name: string }) => !renewed.has(name);
  const keep = { packages: root.packages().filter(stays) };
  const ask = async (there: readonly string[]) => {
    const { requires, install } = request;
    const asked = { requires, exclude, modules, recommends, keep };
    return (await solve(set, { arch, install: [...there, ...install], ...asked, signal })).lock;
  };
  const exact = installed.map((it) => (stays(it) ? it.nevra : it.name));
  const names = installed.map(({ name }) => name);
  try {
    return { lock: await askWhatIsKnown(ask, exact), erased: [] };
  } catch (error) {
    if (!isKilnCode(error, 'E_SOLVER_PROBLEM')) throw error;
  }
  try {
    return { lock: await askWhatIsKnown(ask, names), erased: [] };
  } catch (error) {
    const change = isKilnCode(error, 'E_SOLVER_PROBLEM')
      ? await makeRoom(ask, installed, keep.packages).catch(() => undefined)
      : undefined;
    if (change !== undefined) return change;
    throw await missingRequires(error, set, { arch, signal });
  }
}

/**
 * Without what conflicts with what is new.
 * @param kept of these, some may go: the solver was free to keep them
 * @returns undefined if rpm itself would go
 */
async function makeRoom(
  ask: (there: readonly string[]) => Promise<Lock>,
  installed: readonly InstalledPackage[],
  kept: Lock['packages'],
): Promise<Change | undefined> {
  const { packages } = await ask([]);
  const chosen = new Set(packages.map(({ name }) => name));
  const free = new Set(kept.map(({ nevra }) => nevra));
  const left = installed.filter(({ name, nevra }) => free.has(nevra) && !chosen.has(name));
  // What no repository has any more stays: the solver knows nothing of it.
  const unknown = new Set(await ask(left.map(({ name }) => name)).then(() => [], unknownNames));
  const erased = left.filter(({ name }) => !unknown.has(name));
  if (erased.length === 0 || erased.some(({ name }) => name === PROTECTED)) return undefined;
  const stays = installed.filter((it) => !erased.includes(it)).map(({ name }) => name);
  return { lock: await askWhatIsKnown(ask, stays), erased };
}

/** rpm -e takes no epoch. */
function rpmName(nevra: string): string {
  return nevra.replace(/-\d+:/, '-');
}

function namesOf(
  installed: readonly InstalledPackage[],
  meant: readonly string[] | 'all',
): ReadonlySet<string> {
  const patterns = meant === 'all' ? ['*'] : meant;
  const names = patterns.flatMap((pattern) => {
    const matching = namedBy(pattern, installed);
    if (matching.length > 0) return matching.map(({ name }) => name);
    throw new KilnError('E_MOCK_PACKAGES', `${pattern} is not installed, so there is no update`, {
      hint: '--install installs it',
    });
  });
  return new Set(names);
}

async function askWhatIsKnown(
  ask: (there: readonly string[]) => Promise<Lock>,
  there: readonly string[],
): Promise<Lock> {
  try {
    return await ask([...new Set(there)]);
  } catch (error) {
    const unknown = unknownNames(error);
    if (unknown.length === 0 || !unknown.every((name) => there.includes(name))) throw error;
    return await ask([...new Set(there)].filter((name) => !unknown.includes(name)));
  }
}

function unknownNames(error: unknown): string[] {
  if (!isKilnCode(error, 'E_SOLVER_NO_MATCH')) return [];
  const names = error.details?.names;
  return Array.isArray(names) ? names.map(String) : [];
}

function directoryOf(root: MockRoot): string {
  return join(root.directory, 'local');
}

function ownRepository(root: MockRoot): Repository | undefined {
  const current = join(directoryOf(root), 'current');
  if (!existsSync(current)) return undefined;
  return localRepository('kiln-mock-root', realpathSync(current));
}

/**
 * Adds package files to a root's own repository, in place of older ones, and returns its content.
 * @throws what {@link publishRepository} throws for files that are not packages
 */
export async function addOwnPackages(
  root: MockRoot,
  files: readonly string[],
  signal?: AbortSignal,
): Promise<readonly PooledPackage[]> {
  const directory = directoryOf(root);
  const current = join(directory, 'current');
  const names = (await readdir(current).catch(() => [])).filter((name) => name.endsWith('.rpm'));
  const publish = async (without: ReadonlySet<string>) => {
    const before = names.filter((name) => !without.has(name)).map((name) => join(current, name));
    const all = [...before, ...files].map((path) => ({ path }));
    await using snapshot = await publishRepository(directory, all, { signal });
    return snapshot.packages;
  };
  const without = new Set<string>();
  for (;;) {
    try {
      return await publish(without);
    } catch (error) {
      const location = error instanceof KilnError ? error.details?.location : undefined;
      if (typeof location !== 'string' || !names.includes(location) || without.has(location)) {
        throw error;
      }
      without.add(location);
    }
  }
}
