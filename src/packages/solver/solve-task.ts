/** Confined task `solver-solve`: from names to packages in the order of installation. */
import { readFileSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { reasonLine } from '../../host/calls/system-error.ts';
import type { SingleTask, TaskContext } from '../../host/confine/task.ts';
import { type ModuleMetadata, moduleMetadataSchema } from '../repository/metadata/modules.ts';
import { isIdle } from './condition.ts';
import { missedFiles, unlistedPath } from './file-dependencies.ts';
import { collectIds, IdQueue } from './libsolv/id-queue.ts';
import { transactionSteps } from './libsolv/layout.ts';
import { loadLibsolv, REPO_EXTEND_SOLVABLES, REPO_LOCALPOOL } from './libsolv/libsolv.ts';
import type { Id } from './libsolv/libsolv-types.ts';
import { Pool, type PoolPackage, type PoolRepository, REQUEST_PREFIX } from './libsolv/pool.ts';
import { setSolverFlags } from './libsolv/solver-flags.ts';
import { chooseModules, type RepositoryModules } from './modules/modules.ts';
import { type Package, Packages } from './packages.ts';
import { describeProblems } from './problems.ts';
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
  similarNames,
} from './selection.ts';
import {
  type SolveInput,
  type SolveOutput,
  solvedPackageSchema,
  solveInputSchema,
} from './solve-input.ts';

export const task: SingleTask = {
  prepare() {
    loadLibsolv();
  },
  run(value, context) {
    context.emit(solveIn(solveInputSchema.parse(value), context));
  },
};

function solveIn(input: SolveInput, { fds }: TaskContext): SolveOutput {
  const pool = new Pool(input.arch, input.multilib);
  const loaded = loadRepositories(pool, input, [...fds]);
  if (loaded.damaged !== undefined) return { kind: 'damaged', repository: loaded.damaged };
  const path = [...input.install, ...input.requires].map(unlistedPath).find(Boolean);
  if (path !== undefined && !input.complete) return { kind: 'incomplete', because: path };

  const packages = new Packages(pool);
  const requested = pool.addRepository('request', 1);
  const requests = input.requires.map((text) => pool.addRequest(requested, text));
  const rich = input.install.filter((spec) => spec.startsWith('('));
  requests.push(...rich.map((text) => pool.addRequest(requested, text)));
  pool.prepare();
  for (const pattern of input.exclude) applyExclude(pool, packages, pattern);
  for (const [index, repository] of input.repositories.entries()) {
    const member = pool.repositories[index];
    if (member !== undefined) applyFilters(pool, packages, member, repository);
  }
  const modules = chooseModules(loaded.modules, {
    ...{ pool, packages, arch: input.arch, multilib: input.multilib, request: input.modules },
    hotfixes: new Set(
      pool.repositories.filter((_, index) => input.repositories[index]?.moduleHotfixes),
    ),
  });
  pool.disable(modules.filtered.keys());

  const jobs: Jobs = requests.flatMap((solvable) => packageJob(solvable, false));
  const unknown: string[] = [];
  for (const spec of input.install) {
    if (rich.includes(spec)) continue;
    const found = installJobs(pool, packages, spec);
    if (found === undefined) unknown.push(spec);
    else jobs.push(...found);
  }
  if (unknown.length > 0)
    return { kind: 'unknown', names: explainUnknown(pool, packages, unknown, modules.filtered) };
  // What is there already stays, where it will do.
  const best = input.keep.length === 0;
  const missing: string[] = [];
  for (const name of input.members) {
    const found = memberJobs(pool, packages, name, best);
    if (found === undefined) missing.push(name);
    else jobs.push(...found);
  }
  jobs.push(
    ...input.conditional.flatMap((entry) => conditionalJobs(pool, packages, entry, best) ?? []),
  );
  jobs.push(...modules.profiles.flatMap((candidates) => packagesJob(pool, candidates, best)));
  const kept = keepJobs(pool, input.keep);
  jobs.push(...kept.jobs);
  return solved(pool, packages, input, jobs, {
    missing,
    gone: kept.gone,
    rich,
    warnings: modules.warnings,
  });
}

function loadRepositories(
  pool: Pool,
  input: SolveInput,
  fds: number[],
): { readonly damaged?: string; readonly modules: RepositoryModules[] } {
  const found: RepositoryModules[] = [];
  for (const { id, priority, cost, filelists, modules } of input.repositories) {
    const repository: PoolRepository = pool.addRepository(id, priority, cost);
    const base = fds.shift();
    const damaged = { damaged: id, modules: [] };
    if (base === undefined || !pool.load(repository, base)) return damaged;
    if (filelists) {
      const extension = fds.shift();
      const flags = REPO_EXTEND_SOLVABLES | REPO_LOCALPOOL;
      if (extension === undefined || !pool.load(repository, extension, flags)) return damaged;
    }
    if (modules) {
      const fd = fds.shift();
      const metadata = fd === undefined ? undefined : readModules(fd);
      if (metadata === undefined) return damaged;
      found.push({ repository, metadata });
    }
  }
  // dnf reads repositories in this order, and of two defaults of a module the last one counts.
  found.sort(({ repository: a }, { repository: b }) => a.priority - b.priority || a.cost - b.cost);
  return { modules: found };
}

/** What the converter wrote: one line, before the seal. */
function readModules(fd: number): ModuleMetadata | undefined {
  const [line = ''] = readFileSync(fd, 'utf8').split('\n', 1);
  return moduleMetadataSchema.safeParse(JSON.parse(line)).data;
}

/** What is told beside the packages. */
interface SolveNotes {
  readonly missing: string[];
  readonly gone: string[];
  readonly rich: readonly string[];
  readonly warnings: readonly string[];
}

function solved(
  pool: Pool,
  packages: Packages,
  input: SolveInput,
  jobs: Jobs,
  { rich, warnings, ...notes }: SolveNotes,
): SolveOutput {
  const { solver: calls } = pool.library;
  const solver = calls.create(pool.address);
  setSolverFlags(pool, solver, input.recommends);
  using queue = new IdQueue(jobs);
  const count = calls.solve(solver, queue.raw);
  if (count > 0) {
    const problems = describeProblems(pool, solver, count);
    const path = problems.flat().map(unlistedPath).find(Boolean);
    if (path !== undefined && !input.complete) return { kind: 'incomplete', because: path };
    return { kind: 'problems', problems };
  }
  const transaction = calls.createTransaction(solver);
  calls.orderTransaction(transaction, 0);
  const steps: Id[] = transactionSteps(transaction);
  if (!input.complete) {
    const because = missedFiles(pool, steps, {
      requested: requestedPackages(pool, jobs),
      recommends: input.recommends,
      supplementing: input.recommends ? supplementing(packages) : [],
    });
    if (because !== undefined) return { kind: 'incomplete', because };
  }
  const found = steps
    .map((solvable) => pool.describe(solvable))
    .filter(({ name }) => !name.startsWith(REQUEST_PREFIX));
  for (const each of found) checkSolved(each);
  const chosen = new Set(steps);
  const idle = rich.filter((text) => isIdle(pool, pool.dependency(text), chosen));
  return { kind: 'solved', packages: found, ...notes, idle, warnings: [...warnings] };
}

function supplementing(packages: Packages): Id[] {
  const found = packages.all.filter(({ supplements }) => supplements !== 0);
  return packages.enabled(found).map(({ id }) => id);
}

/** The packages that the jobs are about. */
function requestedPackages(pool: Pool, jobs: Jobs): ReadonlySet<Id> {
  const { jobSolvables } = pool.library.pool;
  const found = new Set<Id>();
  for (let index = 0; index < jobs.length; index += 2) {
    const [how = 0, what = 0] = jobs.slice(index, index + 2);
    for (const id of collectIds((queue) => jobSolvables(pool.address, queue, how, what)))
      found.add(id);
  }
  return found;
}

/** What kiln would not take from this child is wrong in the metadata, which is told by name. */
function checkSolved(found: PoolPackage): void {
  const result = solvedPackageSchema.safeParse(found);
  if (result.success) return;
  const what = `${found.nevra.slice(0, 80)} of repository ${found.repository}`;
  throw new KilnError('E_REPOSITORY_METADATA', `${what} is not a package that rpm could install`, {
    cause: new Error(reasonLine(result.error)),
    hint: 'the metadata of the repository is broken or hostile: leave the package out by `exclude`',
  });
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
  pool: Pool,
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
    const excluded = excludedMatches(pool, packages, name).map(describe);
    return {
      name,
      excluded,
      similar: excluded.length > 0 ? [] : similarNames(pool, packages, name),
    };
  });
}
