/**
 * Which streams are active. As libdnf decides it (ModulePackageContainer.cpp): every stream is a
 * package of a pool of its own, and a solver picks.
 */
import type { ModuleStream } from '../../repository/metadata/modules.ts';
import { IdQueue } from '../libsolv/id-queue.ts';
import { transactionSteps } from '../libsolv/layout.ts';
import type { Id } from '../libsolv/libsolv-types.ts';
import { Pool, type PoolRepository } from '../libsolv/pool.ts';
import { setSolverFlags } from '../libsolv/solver-flags.ts';
import { problemText } from '../problem-text.ts';
import { describeProblems } from '../problems.ts';
import { providesJob } from '../selection.ts';
import { type Modules, moduleError } from './module-state.ts';

/** The machine that streams are chosen for. */
export interface ModulePlatform {
  readonly arch: string;
  readonly multilib: boolean;
  /** What `platform` is in the streams' requirements: `el9`. */
  readonly platform: string | undefined;
}

/**
 * Names of the active streams, as {@link solvableName} makes them.
 * @throws KilnError E_SOLVER_MODULE for streams that cannot be enabled together.
 */
export function solveModules(
  modules: Modules,
  { arch, multilib, platform }: ModulePlatform,
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
  if (platform !== undefined) addPlatform(pool, repository, platform);
  pool.prepare();
  if (disabled.length > 0) pool.disable(disabled);
  const wanted = modules.streams.filter((stream) => modules.isWanted(stream));
  const solve = (best: boolean, strict: boolean) => {
    const jobs = wanted.flatMap(({ name, stream }) => {
      const weak = !strict && !modules.enabled.has(name);
      return providesJob(pool, `module(${name}:${stream})`, { best, weak });
    });
    return runSolver(pool, jobs);
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

/** The packages of the solution, or the problems as text. */
function runSolver(pool: Pool, jobs: readonly Id[]): Id[] | string {
  const { solver: calls } = pool.library;
  const solver = calls.create(pool.address);
  setSolverFlags(pool, solver, false);
  using queue = new IdQueue(jobs);
  const count = calls.solve(solver, queue.raw);
  if (count > 0) return problemText(describeProblems(pool, solver, count));
  return transactionSteps(calls.createTransaction(solver));
}

/**
 * `NAME:STREAM:CONTEXT`. Only static contexts count: others change with what a stream was built
 * with, so what it requires stands for them.
 */
export function solvableName(stream: ModuleStream, all: readonly ModuleStream[]): string {
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

function requiresText({ requires }: ModuleStream): string {
  const texts = requires
    .flatMap((block) => Object.entries(block))
    .filter(([module]) => module !== 'platform')
    .map(([module, streams]) => `${module}:[${[...streams].sort().join(',')}]`);
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

function addPlatform(pool: Pool, repository: PoolRepository, platform: string): void {
  pool.addSolvable(repository, {
    name: `platform:${platform}`,
    evr: '0',
    arch: 'noarch',
    provides: [pool.id('module(platform)'), pool.id(`module(platform:${platform})`)],
    requires: [],
    conflicts: [],
  });
}
