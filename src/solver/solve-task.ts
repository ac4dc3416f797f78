/** Confined task `solver-solve`: from names to packages in the order of installation. */
import type { SingleTask, TaskContext } from '../confine/task.ts';
import { KilnError } from '../errors.ts';
import { reasonLine } from '../kernel/system-error.ts';
import { missedFiles, unlistedPath } from './file-dependencies.ts';
import { IdQueue } from './id-queue.ts';
import { transactionSteps } from './layout.ts';
import { loadLibsolv, REPO_EXTEND_SOLVABLES, REPO_LOCALPOOL } from './libsolv.ts';
import type { Id, Pointer } from './libsolv-types.ts';
import { Pool, type PoolPackage, type PoolRepository, REQUEST_PREFIX } from './pool.ts';
import { describeProblems } from './problems.ts';
import {
  applyFilters,
  excludedMatches,
  findNevra,
  installJobs,
  type Jobs,
  memberJobs,
  namedSolvables,
  packageJob,
  similarNames,
} from './selection.ts';
import {
  type SolveInput,
  type SolveOutput,
  solvedPackageSchema,
  solveInputSchema,
} from './solve-input.ts';

/** solver.h; the same flags as libdnf sets, so that the same packages are chosen. */
const ALLOW_VENDORCHANGE = 3;
const IGNORE_RECOMMENDED = 7;
const BEST_OBEY_POLICY = 12;
const KEEP_ORPHANS = 18;
const YUM_OBSOLETES = 21;

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
  const damaged = loadRepositories(pool, input, [...fds]);
  if (damaged !== undefined) return { kind: 'damaged', repository: damaged };
  const path = [...input.install, ...input.requires].map(unlistedPath).find(Boolean);
  if (path !== undefined && !input.complete) return { kind: 'incomplete', because: path };

  const requested = pool.addRepository('request', 1);
  const requests = input.requires.map((text) => pool.addRequest(requested, text));
  const rich = input.install.filter((spec) => spec.startsWith('('));
  requests.push(...rich.map((text) => pool.addRequest(requested, text)));
  const conditional = input.conditional
    .filter(({ name }) => pool.knows(name))
    .map(({ name, requires }) => `(${name} if ${requires})`);
  requests.push(...conditional.map((text) => pool.addRequest(requested, text)));
  pool.prepare();
  for (const pattern of input.exclude) pool.disable(namedSolvables(pool, pattern));
  for (const [index, repository] of input.repositories.entries()) {
    const member = pool.repositories[index];
    if (member !== undefined) applyFilters(pool, member, repository);
  }

  const jobs: Jobs = requests.flatMap((solvable) => packageJob(solvable, false));
  const unknown: string[] = [];
  for (const spec of input.install) {
    if (rich.includes(spec)) continue;
    const found = installJobs(pool, spec);
    if (found === undefined) unknown.push(spec);
    else jobs.push(...found);
  }
  if (unknown.length > 0) return { kind: 'unknown', names: explainUnknown(pool, unknown) };
  const missing: string[] = [];
  for (const name of input.members) {
    const found = memberJobs(pool, name);
    if (found === undefined) missing.push(name);
    else jobs.push(...found);
  }
  const kept = keepJobs(pool, input.keep);
  jobs.push(...kept.jobs);
  return solved(pool, input, jobs, { missing, gone: kept.gone });
}

function loadRepositories(pool: Pool, input: SolveInput, fds: number[]): string | undefined {
  for (const { id, priority, cost, filelists } of input.repositories) {
    const repository: PoolRepository = pool.addRepository(id, priority, cost);
    const base = fds.shift();
    if (base === undefined || !pool.load(repository, base)) return id;
    if (!filelists) continue;
    const extension = fds.shift();
    const flags = REPO_EXTEND_SOLVABLES | REPO_LOCALPOOL;
    if (extension === undefined || !pool.load(repository, extension, flags)) return id;
  }
  return undefined;
}

function solved(
  pool: Pool,
  input: SolveInput,
  jobs: Jobs,
  notes: { readonly missing: string[]; readonly gone: string[] },
): SolveOutput {
  const { solver: calls } = pool.library;
  const solver = calls.create(pool.address);
  setFlags(solver, calls.setFlag, input.recommends);
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
    const because = missedFiles(pool, steps);
    if (because !== undefined) return { kind: 'incomplete', because };
  }
  const packages = steps
    .map((solvable) => pool.describe(solvable))
    .filter(({ name }) => !name.startsWith(REQUEST_PREFIX));
  for (const found of packages) checkSolved(found);
  return { kind: 'solved', packages, ...notes };
}

/** What kiln would not take from this child is wrong in the metadata, which is told by name. */
function checkSolved(found: PoolPackage): void {
  const result = solvedPackageSchema.safeParse(found);
  if (result.success) return;
  const what = `${found.nevra.slice(0, 80)} of repository ${found.repository}`;
  throw new KilnError('E_REPOSITORY_METADATA', `${what} is nothing that rpm could install`, {
    cause: new Error(reasonLine(result.error)),
    hint: 'the metadata of the repository is broken or hostile: leave the package out by `exclude`',
  });
}

function setFlags(
  solver: Pointer,
  setFlag: (solver: Pointer, flag: number, value: number) => number,
  recommends: boolean,
): void {
  for (const flag of [ALLOW_VENDORCHANGE, BEST_OBEY_POLICY, KEEP_ORPHANS, YUM_OBSOLETES]) {
    setFlag(solver, flag, 1);
  }
  setFlag(solver, IGNORE_RECOMMENDED, recommends ? 0 : 1);
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

function explainUnknown(pool: Pool, names: readonly string[]) {
  return names.map((name) => {
    const excluded = excludedMatches(pool, name);
    return { name, excluded, similar: excluded.length > 0 ? [] : similarNames(pool, name) };
  });
}
