import type { ModuleMetadata, ModuleStream } from '../../repository/metadata/modules-task.ts';
import { transactionSteps } from '../libsolv/layout.ts';
import type { Id } from '../libsolv/libsolv.ts';
import { Pool, type PoolRepository } from '../libsolv/pool.ts';
import type { Package, Packages } from '../packages.ts';
import { providesJob, runSolver } from '../selection.ts';
import { type ModuleRequest, problemText } from '../solve-input.ts';
import { Modules, matches, moduleError, parseSpec } from './module-state.ts';

export interface RepositoryModules {
  readonly repository: PoolRepository;
  readonly metadata: ModuleMetadata;
}

interface ModuleChoice {
  readonly filtered: ReadonlyMap<Id, string>;
  readonly profiles: readonly (readonly Package[])[];
  readonly warnings: readonly string[];
}

interface Settings {
  readonly packages: Packages;
  readonly arch: string;
  readonly multilib: boolean;
  readonly request: ModuleRequest;
  readonly hotfixes: ReadonlySet<PoolRepository>;
}

export function chooseModules(all: readonly RepositoryModules[], settings: Settings): ModuleChoice {
  const { request } = settings;
  const modules = new Modules(all.map(({ metadata }) => metadata));
  const warnings = all.flatMap(({ repository, metadata }) =>
    metadata.skipped.map(
      (why) => `repository ${repository.id}: modules.yaml, ${why}: it is left out`,
    ),
  );
  for (const spec of request.disable) modules.disable(spec);
  for (const spec of request.enable) modules.enable(spec);
  const wanted = request.install.flatMap((spec) =>
    modules.enable(spec).map((versions) => ({ spec, versions })),
  );
  if (modules.streams.length === 0) return { filtered: new Map(), profiles: [], warnings };
  warnings.push(...modules.applyObsoletes(request.obsoletes));
  const platform = request.platform ?? releasePlatform(settings);
  const active = solveModules(modules, settings, platform);
  const filtered = filteredPackages(modules.streams, active, settings);
  const profiles = wanted.flatMap((one) =>
    profilePackages(modules, active, filtered, one, settings),
  );
  return { filtered, profiles, warnings };
}

/** What the newest packages of the release say: `base-module(platform:el8)`. */
function releasePlatform({ packages }: Settings): string | undefined {
  const { pool } = packages;
  const ids = new Set(pool.providers(pool.id('system-release')));
  const releases = packages.enabled(packages.all).filter(({ id }) => ids.has(id));
  const platforms = new Set(
    packages
      .latest(releases)
      .flatMap(({ id }) => pool.array(id, 'solvable:provides'))
      .map(
        (provided) =>
          /^base-module\(platform:([^)]+)\)$/.exec(
            packages.text(pool.dependencyName(provided)),
          )?.[1],
      )
      .filter((found) => found !== undefined),
  );
  const [platform] = platforms;
  return platforms.size === 1 ? platform : undefined;
}

/**
 * Packages that must not be installed: those of streams that are not active, and those that are, or
 * provide, what an active stream has packages for.
 */
function filteredPackages(
  streams: readonly ModuleStream[],
  active: ReadonlySet<string>,
  { packages, hotfixes }: Settings,
): Map<Id, string> {
  const { pool } = packages;
  const included = new Set<string>();
  const excluded = new Map<string, string>();
  const names = new Map<string, string>();
  for (const stream of streams) {
    const title = `${stream.name}:${stream.stream}`;
    const isActive = active.has(solvableName(stream, streams));
    for (const artifact of stream.artifacts) {
      const parts = /^(.+)-(?:(\d+):)?([^-]+-[^-]+\.[^-.]+)$/.exec(artifact);
      if (parts === null) continue;
      const [, name = '', epoch = '0', rest = ''] = parts;
      const nevra = `${name}-${Number(epoch) === 0 ? '' : `${Number(epoch)}:`}${rest}`;
      if (isActive) {
        included.add(nevra);
        names.set(name, title);
      } else {
        excluded.set(nevra, title);
      }
    }
  }
  const providers = new Map<Id, string>();
  for (const [name, title] of names) {
    for (const id of pool.providers(pool.id(name))) providers.set(id, title);
  }
  const filtered = new Map<Id, string>();
  for (const candidate of packages.all) {
    if (hotfixes.has(candidate.repository)) continue;
    const nevra = packages.nevra(candidate);
    if (included.has(nevra)) continue;
    const why =
      excluded.get(nevra) ??
      names.get(packages.text(candidate.name)) ??
      providers.get(candidate.id);
    if (why !== undefined) filtered.set(candidate.id, why);
  }
  return filtered;
}

function profilePackages(
  modules: Modules,
  active: ReadonlySet<string>,
  filtered: ReadonlyMap<Id, string>,
  wanted: { readonly spec: string; readonly versions: readonly ModuleStream[] },
  { packages, hotfixes }: Settings,
): Package[][] {
  const { profile } = parseSpec(wanted.spec);
  const { name = '', stream = '' } = wanted.versions[0] ?? {};
  const versions = wanted.versions.filter((one) => active.has(solvableName(one, modules.streams)));
  if (versions.length === 0) {
    throw moduleError(`${wanted.spec} is not what is enabled of the module ${name}:${stream}`, {
      hint: 'other versions or contexts of it are: leave them out',
    });
  }
  const latest = versions.reduce<ModuleStream | undefined>(
    (best, one) => (best === undefined || BigInt(one.version) > BigInt(best.version) ? one : best),
    undefined,
  );
  const known = Object.keys(latest?.profiles ?? {});
  const named =
    profile === undefined
      ? (modules.defaults.get(name)?.profiles[stream] ?? [])
      : known.filter((one) => matches(profile, one));
  const missing = named.find((one) => !known.includes(one));
  if (named.length === 0 || missing !== undefined) {
    const absent = missing ?? profile;
    const what = absent === undefined ? 'no default profile' : `no profile ${absent}`;
    throw moduleError(`the module ${name}:${stream} has ${what}`, {
      hint:
        known.length === 0
          ? 'it has no profiles: enable it, and name the packages'
          : `its profiles are ${known.sort().join(', ')}: name one as ${name}:${stream}/PROFILE`,
    });
  }
  const artifacts = new Set(
    versions.flatMap((one) => one.artifacts.map((nevra) => nevra.replace(/-0:/, '-'))),
  );
  const enabled = packages.enabled(packages.all).filter(({ id }) => !filtered.has(id));
  return [...new Set(named.flatMap((one) => latest?.profiles[one] ?? []))].map((wantedName) => {
    const called = enabled.filter((candidate) => packages.text(candidate.name) === wantedName);
    const own = called.filter(
      (candidate) => artifacts.has(packages.nevra(candidate)) || hotfixes.has(candidate.repository),
    );
    const found = own.length > 0 ? own : called;
    if (found.length > 0) return found;
    throw moduleError(
      `no repository has ${wantedName}, which the module ${name}:${stream} installs`,
    );
  });
}

/**
 * Names of the active streams, as {@link solvableName} makes them. As libdnf decides it (ModulePackageContainer.cpp):
 * every stream is a package of a pool of its own, and a solver picks.
 * @throws KilnError E_SOLVER_MODULE for streams that cannot be enabled together.
 */
function solveModules(
  modules: Modules,
  { arch, multilib }: Settings,
  platform: string | undefined,
): ReadonlySet<string> {
  const pool = new Pool(arch, multilib);
  const repository = pool.addRepository('modules');
  const byId = new Map<Id, string>();
  const disabled: Id[] = [];
  for (const stream of modules.streams) {
    const id = addStream(pool, repository, stream, modules.streams);
    byId.set(id, solvableName(stream, modules.streams));
    if (modules.disabled.has(stream.name)) disabled.push(id);
  }
  if (platform !== undefined) {
    pool.addSolvable(repository, {
      name: `platform:${platform}`,
      evr: '0',
      arch: 'noarch',
      provides: [pool.id('module(platform)'), pool.id(`module(platform:${platform})`)],
    });
  }
  pool.prepare();
  if (disabled.length > 0) pool.disable(disabled);
  const wanted = modules.streams.filter((stream) => modules.isWanted(stream));
  const solve = (best: boolean, strict: boolean) => {
    const jobs = wanted.flatMap(({ name, stream }) => {
      const weak = !strict && !modules.enabled.has(name);
      return providesJob(pool, `module(${name}:${stream})`, { best, weak });
    });
    const { problems, solver } = runSolver(pool, jobs, false);
    if (problems.length > 0) return problemText(problems);
    return transactionSteps(pool.library.solver.createTransaction(solver));
  };
  // All defaults; those that there can be; all, where an older version of one makes room.
  let answer = solve(true, true);
  if (typeof answer === 'string') answer = solve(true, false);
  if (typeof answer === 'string' && modules.enabled.size === 0) answer = solve(false, true);
  if (typeof answer === 'string') {
    throw moduleError(`these modules cannot be enabled together:\n${answer}`, {
      hint:
        platform === undefined
          ? 'no repository says what platform this is: name it in the recipe, as `modules: { platform: el9 }`'
          : 'enable other streams, or disable what stands in the way',
    });
  }
  return new Set(answer.map((id) => byId.get(id)).filter((name) => name !== undefined));
}

/**
 * `NAME:STREAM:CONTEXT`. Only static contexts count: others change with what a stream was built
 * with, so what it requires stands for them.
 */
function solvableName(stream: ModuleStream, all: readonly ModuleStream[]): string {
  const { name, stream: streamName, context, staticContext } = stream;
  if (staticContext) return `${name}:${streamName}:${context}`;
  const requires = requiresText(stream);
  const like = all.find(
    (other) =>
      other.staticContext &&
      other.name === name &&
      other.stream === streamName &&
      requiresText(other) === requires,
  );
  return `${name}:${streamName}:${like?.context ?? requires}`;
}

/** As libdnf writes it: libsolv prefers, of two streams that are as good, the one whose name is first in the alphabet. */
function requiresText({ requires }: ModuleStream): string {
  const texts = requires
    .flatMap((block) => Object.entries(block))
    .filter(([module]) => module !== 'platform')
    .map(([module, streams]) =>
      streams.length === 0 ? module : `${module}:[${[...streams].sort().join(',')}]`,
    );
  return texts.sort().join(',') || 'NoRequires';
}

function addStream(
  pool: Pool,
  repository: PoolRepository,
  stream: ModuleStream,
  all: readonly ModuleStream[],
): Id {
  const { name, version, arch } = stream;
  const requires: Id[] = [];
  const conflicts: Id[] = [pool.id(`module(${name})`)];
  for (const [module, streams] of stream.requires.flatMap((block) => Object.entries(block))) {
    const excluded = streams.filter((one) => one.startsWith('-'));
    conflicts.push(...excluded.map((one) => pool.id(`module(${module}:${one.slice(1)})`)));
    const allowed = streams.filter((one) => !one.startsWith('-'));
    const ids = allowed.map((one) => pool.id(`module(${module}:${one})`));
    requires.push(ids.length === 0 ? pool.id(`module(${module})`) : pool.anyOf(ids));
  }
  return pool.addSolvable(repository, {
    name: solvableName(stream, all),
    evr: version,
    arch,
    provides: [pool.id(`module(${name})`), pool.id(`module(${name}:${stream.stream})`)],
    requires,
    conflicts,
  });
}
