import { KilnError } from '../../../errors.ts';
import type { OnImageProgress } from '../../../image/progress.ts';
import { fetchSignedFiles } from '../../../image/store/packages.ts';
import { VERIFIED_BEFORE } from '../../../image/transaction/rpm-options.ts';
import type { Repository } from '../../../packages/repository/configuration.ts';
import type { Lock, LockedPackage } from '../../../packages/repository/lock/lock.ts';
import { openRepositories } from '../../../packages/repository/open.ts';
import type { RefreshMode } from '../../../packages/repository/refresh.ts';
import { solve } from '../../../packages/solver/solve.ts';
import type { ImageModules } from '../../../recipe/load-image-recipe.ts';
import { matchesGlob } from '../config/language/glob.ts';
import { type InstalledPackage, installedPackages } from './installed.ts';
import { addOwnPackages, ownRepository } from './local-packages.ts';
import type { MockRoot } from './root.ts';
import { changing, type PackageSession, rpmFailed, withPackages } from './transaction.ts';

/** The repositories of packages, and what is never installed. */
export interface PackageSources {
  readonly arch: string;
  readonly repositories: readonly Repository[];
  /**
   * `--addrepo`: packages from these are kept with the root, because a later call may not name the repository.
   */
  readonly added: readonly Repository[];
  /** Ids of repositories that only this call enables (`--enablerepo`): their packages are kept as well. */
  readonly passing: readonly string[];
  readonly exclude: readonly string[];
  readonly modules?: ImageModules | undefined;
  readonly recommends: boolean;
  readonly refresh: RefreshMode;
}

/** The packages that a root must have. */
export interface InstallRequest {
  readonly sources: PackageSources;
  /** As on dnf's command line: names, NEVRAs, globs, capabilities, paths, `@group`. */
  readonly install: readonly string[];
  /** Dependencies that must be met, as in BuildRequires. */
  readonly requires?: readonly string[];
  /**
   * Packages to update, in dnf's forms: names, globs, NEVRAs; `all` for everything. Other installed packages
   * stay as they are.
   */
  readonly renew?: readonly string[] | 'all';
  /** The most bytes that packages and scriptlets may write; 16 GiB by default. */
  readonly disk?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnImageProgress | undefined;
  /** Output for people: installed packages, rpm's messages. */
  readonly log: (text: string) => void;
}

/** rpm itself checks only the dependencies. */
const UPGRADE = ['-U', '--oldpackage', ...VERIFIED_BEFORE];

/**
 * Installs packages and their dependencies into a root: solved on the host, fetched and verified as for an
 * image, and installed by the root's own rpm in a sandbox. @returns the installed packages in order. @throws
 * KilnError of the solver and the repositories; E_MOCK_PACKAGES when rpm fails, or nothing is installed that
 * `renew` names.
 */
export async function installPackages(
  root: MockRoot,
  request: InstallRequest,
): Promise<readonly LockedPackage[]> {
  const { disk, signal, log } = request;
  const onOutput = (chunk: Buffer) => log(chunk.toString('utf8'));
  return await withPackages(root, { disk, signal, onOutput }, async (session) => {
    const installed = await installedPackages(session.sandbox, signal);
    const lock = await solveFor(root, request, installed);
    const there = new Set(installed.map(({ nevra }) => nevra));
    const missing = lock.packages.filter(({ nevra }) => !there.has(nevra));
    if (missing.length === 0) {
      log('Nothing to do.\n');
      return [];
    }
    for (const { nevra, repository } of missing) log(`Installing ${nevra} (${repository})\n`);
    await upgrade(root, session, { ...lock, packages: missing }, request);
    await root.setPackages(lock.packages);
    return missing;
  });
}

async function upgrade(
  root: MockRoot,
  session: PackageSession,
  lock: Lock,
  { signal, onProgress, sources }: InstallRequest,
): Promise<void> {
  const files = await fetchSignedFiles(root.engine.paths, lock, { onProgress, signal });
  const added = new Set([...sources.passing, ...sources.added.map(({ id }) => id)]);
  const foreign = files.filter((_, index) => added.has(lock.packages[index]!.repository));
  if (foreign.length > 0) await addOwnPackages(root, foreign, signal);
  const lent = files.map((file) => session.lend(file));
  await changing(root, async () => {
    const result = await session.rpm([...UPGRADE, ...lent]);
    if (result.exitCode !== 0) {
      // A scriptlet that fails late makes rpm fail although the package is installed.
      const left = await installedPackages(session.sandbox, signal);
      const there = new Set(left.map(({ nevra }) => nevra));
      if (!lock.packages.every(({ nevra }) => there.has(nevra))) {
        await root.note({ changing: false });
        throw rpmFailed('the packages cannot be installed', result);
      }
    }
  });
}

/** Solves like dnf: installed packages stay as they are unless a new one needs another version. */
async function solveFor(
  root: MockRoot,
  request: InstallRequest,
  installed: readonly InstalledPackage[],
): Promise<Lock> {
  const { sources, signal, onProgress } = request;
  const { paths } = root.engine;
  const { arch, exclude, modules, recommends, refresh } = sources;
  const own = ownRepository(root);
  const repositories = [...sources.repositories, ...sources.added, ...(own ? [own] : [])];
  const set = await openRepositories(repositories, { paths, refresh, onProgress, signal });
  const renewed = namesOf(installed, request.renew ?? []);
  const stays = ({ name }: { name: string }) => !renewed.has(name);
  const packages = (await root.packages()).filter(stays);
  const keep: Lock = { format: 1, arch, requested: [], repositories: [], packages };
  const ask = async (there: readonly string[]) => {
    const install = [...there, ...request.install];
    const { requires } = request;
    const asked = { install, requires, exclude, modules, recommends, keep };
    const question = { arch, ...asked, signal, onProgress };
    return (await solve(set, question)).lock;
  };
  const exact = installed.map((it) => (stays(it) ? it.nevra : it.name));
  try {
    return await askWhatIsKnown(ask, exact);
  } catch (error) {
    if (!(error instanceof KilnError) || error.code !== 'E_SOLVER_PROBLEM') throw error;
    return await askWhatIsKnown(
      ask,
      installed.map(({ name }) => name),
    );
  }
}

/** The names of the installed packages that match. */
function namesOf(
  installed: readonly InstalledPackage[],
  meant: readonly string[] | 'all',
): ReadonlySet<string> {
  const patterns = meant === 'all' ? ['*'] : meant;
  const names = patterns.flatMap((pattern) => {
    const matching = installed.filter(({ name, arch, nevra }) =>
      [name, `${name}.${arch}`, nevra].some((text) => matchesGlob(text, pattern)),
    );
    if (matching.length > 0) return matching.map(({ name }) => name);
    throw new KilnError('E_MOCK_PACKAGES', `${pattern} is not installed, so there is no update`, {
      hint: '--install installs it',
    });
  });
  return new Set(names);
}

/** Installed packages that are in no repository any more stay, but cannot be requested. */
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
  if (!(error instanceof KilnError) || error.code !== 'E_SOLVER_NO_MATCH') return [];
  const names = error.details?.names;
  return Array.isArray(names) ? names.map(String) : [];
}
