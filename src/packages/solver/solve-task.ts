/** Confined task `solver-solve`: from names to packages in the order of installation. */
import { readFileSync } from 'node:fs';
import type { SingleTask, TaskContext } from '../../host/confine/task.ts';
import type { ModuleMetadata } from '../repository/metadata/modules-task.ts';
import { leaveOutEqual } from './equal.ts';
import { transactionSteps } from './libsolv/layout.ts';
import { type Id, loadLibsolv, REPO_EXTEND_SOLVABLES, REPO_LOCALPOOL } from './libsolv/libsolv.ts';
import { Pool, type PoolRepository, REQUEST_PREFIX } from './libsolv/pool.ts';
import { chooseModules, type RepositoryModules } from './modules/modules.ts';
import { MissingFiles, type Package, Packages, unlistedPath } from './packages.ts';
import {
  applyExclude,
  applyFilters,
  conditionalJobs,
  excludedMatches,
  findNevra,
  installJobs,
  type Jobs,
  memberJobs,
  packageJob,
  packagesJob,
  runSolver,
  similarNames,
} from './selection.ts';
import type { SolveInput, SolveRepository } from './solve-input.ts';
import type { SolveOutput } from './solve-output.ts';

export const task: SingleTask = {
  prepare() {
    loadLibsolv();
  },
  run(value, context) {
    context.emit(solveIn(value as SolveInput, context));
  },
};

function solveIn(input: SolveInput, { fds }: TaskContext): SolveOutput {
  const pool = new Pool(input.arch, input.multilib);
  const repositories = inOrder(input, fds);
  const loaded = loadRepositories(pool, repositories);
  if (loaded.damaged !== undefined) return { kind: 'damaged', repository: loaded.damaged };
  const path = [...input.install, ...input.requires].map(unlistedPath).find(Boolean);
  if (path !== undefined && !input.complete) return { kind: 'incomplete', because: path };

  const packages = new Packages(pool);
  const requested = pool.addRepository('request', 1);
  const requests = input.requires.map((text) => pool.addRequest(requested, text));
  const rich = input.install.filter((spec) => spec.startsWith('('));
  requests.push(...rich.map((text) => pool.addRequest(requested, text)));
  pool.prepare();
  const files = input.complete ? undefined : new MissingFiles(pool, requested);
  const equal = leaveOutEqual(packages);
  for (const pattern of input.exclude) applyExclude(packages, pattern);
  for (const [index, repository] of repositories.entries()) {
    const member = pool.repositories[index];
    if (member !== undefined) applyFilters(packages, member, repository);
  }
  const modules = chooseModules(loaded.modules, {
    ...{ packages, arch: input.arch, multilib: input.multilib, request: input.modules },
    hotfixes: new Set(pool.repositories.filter((_, index) => repositories[index]?.moduleHotfixes)),
  });
  pool.disable(modules.filtered.keys());

  const jobs: Jobs = requests.flatMap((solvable) => packageJob(solvable, false));
  const unknown: string[] = [];
  for (const spec of input.install) {
    if (rich.includes(spec)) continue;
    const found = installJobs(packages, spec);
    if (found === undefined) unknown.push(spec);
    else jobs.push(...found);
  }
  if (unknown.length > 0)
    return { kind: 'unknown', names: explainUnknown(packages, unknown, modules.filtered) };
  // Packages to keep stay where they meet the request, even if there are newer ones.
  const best = input.keep.length === 0;
  const missing: string[] = [];
  for (const name of input.members) {
    const found = memberJobs(packages, name, best);
    if (found === undefined) missing.push(name);
    else jobs.push(...found);
  }
  jobs.push(...input.conditional.flatMap((entry) => conditionalJobs(packages, entry, best) ?? []));
  jobs.push(...modules.profiles.flatMap((candidates) => packagesJob(pool, candidates, best)));
  const kept = keepJobs(pool, input.keep);
  jobs.push(...kept.jobs);
  const warnings = [...equal, ...modules.warnings];
  return solved(packages, input, jobs, { missing, gone: kept.gone, rich, files, warnings });
}

interface Described extends SolveRepository {
  readonly files: readonly (number | undefined)[];
}

/**
 * The repositories in the order in which dnf reads them. Of answers that are equally good the solver takes the one
 * whose packages it read first, and of two defaults of a module the last one counts.
 */
function inOrder({ repositories }: SolveInput, fds: readonly number[]): Described[] {
  let next = 0;
  const described = repositories.map((repository) => {
    const { filelists, modules } = repository;
    const files = [true, filelists, modules].map((has) => (has ? fds[next++] : undefined));
    return { ...repository, files };
  });
  return described.toSorted((a, b) => a.priority - b.priority || a.cost - b.cost);
}

function loadRepositories(
  pool: Pool,
  repositories: readonly Described[],
): { readonly damaged?: string; readonly modules: RepositoryModules[] } {
  const found: RepositoryModules[] = [];
  for (const { id, priority, cost, filelists, modules, files } of repositories) {
    const repository: PoolRepository = pool.addRepository(id, priority, cost);
    const [base, extension, streams] = files;
    const damaged = { damaged: id, modules: [] };
    if (base === undefined || !pool.load(repository, base)) return damaged;
    if (filelists) {
      const flags = REPO_EXTEND_SOLVABLES | REPO_LOCALPOOL;
      if (extension === undefined || !pool.load(repository, extension, flags)) return damaged;
    }
    if (modules) {
      if (streams === undefined) return damaged;
      found.push({ repository, metadata: readModules(streams) });
    }
  }
  return { modules: found };
}

/** A confined child wrote it and kiln sealed it, as libsolv's files beside it. */
function readModules(fd: number): ModuleMetadata {
  const [line = ''] = readFileSync(fd, 'utf8').split('\n', 1);
  return JSON.parse(line);
}

interface SolveNotes {
  readonly missing: string[];
  readonly gone: string[];
  readonly rich: readonly string[];
  readonly files: MissingFiles | undefined;
  readonly warnings: readonly string[];
}

function solved(
  packages: Packages,
  input: SolveInput,
  jobs: Jobs,
  { rich, files, warnings, ...notes }: SolveNotes,
): SolveOutput {
  const { pool } = packages;
  const { problems, solver } = runSolver(pool, jobs, input.recommends);
  if (problems.length > 0) {
    const path = problems.flat().map(unlistedPath).find(Boolean);
    if (path !== undefined && !input.complete) return { kind: 'incomplete', because: path };
    return { kind: 'problems', problems };
  }
  const { solver: calls } = pool.library;
  const transaction = calls.createTransaction(solver);
  calls.orderTransaction(transaction, 0);
  const steps: Id[] = transactionSteps(transaction);
  const because = files?.because(steps, input.recommends ? supplementing(packages) : []);
  if (because !== undefined) return { kind: 'incomplete', because };
  const found = steps
    .map((solvable) => pool.describe(solvable))
    .filter(({ name }) => !name.startsWith(REQUEST_PREFIX));
  const chosen = new Set(steps);
  const idle = rich.filter((text) => isIdle(pool, pool.dependency(text), chosen));
  return { kind: 'solved', packages: found, ...notes, idle, warnings: [...warnings] };
}

function supplementing(packages: Packages): Id[] {
  const found = packages.all.filter(({ supplements }) => supplements !== 0);
  return packages.enabled(found).map(({ id }) => id);
}

function keepJobs(pool: Pool, keep: SolveInput['keep']): { jobs: Jobs; gone: string[] } {
  const jobs: Jobs = [];
  const gone: string[] = [];
  for (const { nevra, digest } of keep) {
    const same = findNevra(pool, nevra).find((id) => pool.describe(id).digest === digest);
    if (same === undefined) gone.push(nevra);
    else jobs.push(...packageJob(same, true));
  }
  return { jobs, gone };
}

function explainUnknown(
  packages: Packages,
  names: readonly string[],
  filtered: ReadonlyMap<Id, string>,
) {
  const describe = (found: Package) => {
    const stream = filtered.get(found.id);
    const nevra = packages.nevra(found);
    return stream === undefined ? nevra : `${nevra}, by the module ${stream}`;
  };
  return names.map((name) => {
    const excluded = excludedMatches(packages, name).map(describe);
    const similar = excluded.length > 0 ? [] : similarNames(packages, name);
    return { name, excluded, similar };
  });
}

/** pool.h: the parts of rich dependencies. */
const REL_AND = 16;
const REL_OR = 17;
const REL_COND = 22;
const REL_ELSE = 26;

/** rpm's parser lets less through. */
const MAX_DEPTH = 64;

function isIdle(pool: Pool, dependency: Id, chosen: ReadonlySet<Id>): boolean {
  const relation = pool.relation(dependency);
  if (relation?.flags !== REL_COND) return false;
  return pool.relation(relation.evr)?.flags !== REL_ELSE && !isMet(pool, relation.evr, chosen, 0);
}

function isMet(pool: Pool, dependency: Id, chosen: ReadonlySet<Id>, depth: number): boolean {
  const relation = pool.relation(dependency);
  if (relation !== undefined && depth < MAX_DEPTH) {
    const sides = [relation.name, relation.evr];
    const met = (side: Id) => isMet(pool, side, chosen, depth + 1);
    if (relation.flags === REL_AND) return sides.every(met);
    if (relation.flags === REL_OR) return sides.some(met);
  }
  return pool.providers(dependency).some((id) => chosen.has(id));
}
