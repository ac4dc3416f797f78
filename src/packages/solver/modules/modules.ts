/** Modules: which packages may be installed, by the streams that are active. */
import type { ModuleMetadata, ModuleStream } from '../../repository/metadata/modules.ts';
import type { Id } from '../libsolv/libsolv-types.ts';
import type { Pool, PoolRepository } from '../libsolv/pool.ts';
import type { Package, Packages } from '../packages.ts';
import type { ModuleRequest } from '../solve-input.ts';
import { solvableName, solveModules } from './module-solver.ts';
import { Modules, moduleError, parseSpec } from './module-state.ts';

/** The modules of one repository. */
export interface RepositoryModules {
  readonly repository: PoolRepository;
  readonly metadata: ModuleMetadata;
}

/** What follows from the modules. */
export interface ModuleChoice {
  /** Packages that no active stream has, and the stream (`NAME:STREAM`) that has each, if any has. */
  readonly filtered: ReadonlyMap<Id, string>;
  /** One of each list is to be installed: what `install` asks for. */
  readonly profiles: readonly (readonly Package[])[];
  readonly warnings: readonly string[];
}

interface Settings {
  readonly pool: Pool;
  readonly packages: Packages;
  readonly arch: string;
  readonly multilib: boolean;
  readonly request: ModuleRequest;
  /** Repositories of which no package is filtered (`module_hotfixes`). */
  readonly hotfixes: ReadonlySet<PoolRepository>;
}

/**
 * Decides which streams are active.
 * @throws KilnError E_SOLVER_MODULE for modules that do not exist or cannot be enabled together.
 */
export function chooseModules(all: readonly RepositoryModules[], settings: Settings): ModuleChoice {
  const { request } = settings;
  const modules = new Modules(all.map(({ metadata }) => metadata));
  const warnings = all.flatMap(({ repository, metadata }) =>
    metadata.skipped.map(
      (why) => `repository ${repository.id}: modules.yaml, ${why}: it is left out`,
    ),
  );
  for (const spec of request.disable) modules.disable(spec);
  for (const spec of [...request.enable, ...request.install]) modules.enable(spec);
  if (modules.streams.length === 0) return { filtered: new Map(), profiles: [], warnings };
  warnings.push(...modules.applyObsoletes(request.obsoletes));
  const { arch, multilib } = settings;
  const platform = request.platform ?? releasePlatform(settings);
  const active = solveModules(modules, { arch, multilib, platform });
  const filtered = filteredPackages(modules.streams, active, settings);
  const profiles = request.install.flatMap((spec) =>
    profilePackages(modules, active, filtered, spec, settings),
  );
  return { filtered, profiles, warnings };
}

/** What the newest packages of the release say: `base-module(platform:el8)`. */
function releasePlatform({ pool, packages }: Settings): string | undefined {
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
  { pool, packages, hotfixes }: Settings,
): Map<Id, string> {
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

/** For each package of the profiles that `spec` means, what may be installed of it. */
function profilePackages(
  modules: Modules,
  active: ReadonlySet<string>,
  filtered: ReadonlyMap<Id, string>,
  spec: string,
  { packages, hotfixes }: Settings,
): Package[][] {
  const { name, profile } = parseSpec(spec);
  const stream = modules.enabled.get(name) ?? '';
  const versions = modules.streams.filter(
    (one) =>
      one.name === name && one.stream === stream && active.has(solvableName(one, modules.streams)),
  );
  const latest = versions.reduce<ModuleStream | undefined>(
    (best, one) => (best === undefined || BigInt(one.version) > BigInt(best.version) ? one : best),
    undefined,
  );
  const known = Object.keys(latest?.profiles ?? {});
  const wanted =
    profile === undefined ? (modules.defaults.get(name)?.profiles[stream] ?? []) : [profile];
  const missing = wanted.find((one) => !known.includes(one));
  if (wanted.length === 0 || missing !== undefined) {
    const what = missing === undefined ? 'no default profile' : `no profile ${missing}`;
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
  return [...new Set(wanted.flatMap((one) => latest?.profiles[one] ?? []))].map((wantedName) => {
    const named = enabled.filter((candidate) => packages.text(candidate.name) === wantedName);
    const own = named.filter(
      (candidate) => artifacts.has(packages.nevra(candidate)) || hotfixes.has(candidate.repository),
    );
    const found = own.length > 0 ? own : named;
    if (found.length > 0) return found;
    throw moduleError(
      `no repository has ${wantedName}, which the module ${name}:${stream} installs`,
    );
  });
}
