import { open } from 'node:fs/promises';
import { runConfined } from '../confine/run.ts';
import { KilnError } from '../errors.ts';
import type { DownloadContext } from '../repository/download.ts';
import type { Lock } from '../repository/lock.ts';
import type { OpenRepository, RepositorySet } from '../repository/open.ts';
import type { OnProgress } from '../repository/progress.ts';
import { type ConvertedPart, dropConverted, ensureConverted, readGroups } from './converted.ts';
import { defaultGroupTypes, expandGroups, type GroupPackageType } from './groups.ts';
import { makeLock } from './make-lock.ts';
import { readSolution, solutionPath, writeSolution } from './solution-cache.ts';
import { type SolveInput, type SolveOutput, solveOutputSchema } from './solve-input.ts';
import { solverError } from './solver-error.ts';

/** What {@link solve} is asked for. */
export interface SolveRequest {
  /** As rpm calls it: `x86_64`, `aarch64`, … */
  readonly arch: string;
  /** Also packages of the 32-bit architecture that this one can run; off unless set. */
  readonly multilib?: boolean | undefined;
  /**
   * What must be installed, as on dnf's command line: a name, name-version, NEVRA, glob, condition
   * (`foo >= 2`), capability, path, rich dependency (`(a or b)`), `@group` or `@^environment`.
   */
  readonly install: readonly string[];
  /** Dependencies that must be met, as in a spec file's BuildRequires. */
  readonly requires?: readonly string[] | undefined;
  /** Names, NEVRAs or globs of packages that must not be installed. */
  readonly exclude?: readonly string[] | undefined;
  /** Install what is only recommended, too; off unless set. */
  readonly recommends?: boolean | undefined;
  /** Which members of a group are meant; mandatory, default and conditional ones unless given. */
  readonly groupTypes?: readonly GroupPackageType[] | undefined;
  /** Stay with the packages of an earlier lock wherever that is possible. */
  readonly keep?: Lock | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: OnProgress | undefined;
}

export interface Solution {
  readonly lock: Lock;
  /** For people: members of groups that no repository has, and the like. */
  readonly warnings: readonly string[];
}

/** 60,000 packages take 150 MB; a hostile problem may take any time. */
const LIMITS = { memory: 4 * 2 ** 30, cpuSeconds: 300, wallMs: 600_000, fileSize: 0 };

/**
 * Finds the packages that `request` means, with everything they need, and their order.
 * @throws KilnError E_SOLVER_PROBLEM (`details.problems`: libsolv's own words, a list for each
 * problem), E_SOLVER_NO_MATCH (`details.names`), E_SOLVER_REQUEST, E_SOLVER_MISSING, E_DOWNLOAD,
 * E_REPOSITORY_METADATA
 */
export async function solve(set: RepositorySet, request: SolveRequest): Promise<Solution> {
  const context: DownloadContext = {
    ...set.context,
    signal: request.signal ?? set.context.signal,
    onProgress: request.onProgress ?? set.context.onProgress,
  };
  const { signal: _, onProgress: __, ...question } = request;
  const path = solutionPath(set, question);
  const known = await readSolution(path);
  if (known !== undefined) return known;
  const solution = await solveAnew(set, request, context);
  // The repositories may have been renewed on the way: that is another question.
  if (solutionPath(set, question) === path) await writeSolution(path, solution);
  return solution;
}

async function solveAnew(
  set: RepositorySet,
  request: SolveRequest,
  context: DownloadContext,
): Promise<Solution> {
  const primaries = await convertAll(set, 'primary', context);
  const groups = request.install.filter((spec) => spec.startsWith('@'));
  const known =
    groups.length === 0
      ? []
      : await Promise.all(set.members.map((member) => readGroups(member, context)));
  const types = request.groupTypes ?? defaultGroupTypes;
  const expanded = expandGroups(
    known.flat(),
    groups.map((spec) => spec.slice(1)),
    types,
  );
  const ask = async (filelists: ReadonlyMap<string, string> | undefined) => {
    const input = solveInput(set, request, expanded, filelists);
    return await runSolver(set, input, primaries, filelists, context);
  };
  let answer = await ask(undefined);
  if (answer.kind === 'damaged') {
    await Promise.all(set.members.map((member) => dropConverted(member, context)));
    await convertAll(set, 'primary', context);
    answer = await ask(undefined);
  }
  if (answer.kind === 'incomplete') answer = await ask(await convertAll(set, 'filelists', context));
  if (answer.kind !== 'solved') throw solverError(answer);
  const warnings = [
    ...answer.missing.map((name) => `no repository has ${name}, which is in a requested group`),
    ...answer.gone.map((nevra) => `no repository has ${nevra} any more`),
  ];
  return { lock: makeLock(set, request, answer.packages), warnings };
}

/** Makes the converted metadata of every repository that has this part; paths by repository id. */
async function convertAll(
  set: RepositorySet,
  part: ConvertedPart,
  context: DownloadContext,
): Promise<Map<string, string>> {
  const paths = new Map<string, string>();
  const members = set.members.filter(({ index }) => index.repomd[part] !== undefined);
  await Promise.all(
    members.map(async (member) => {
      const { id } = member.repository;
      paths.set(id, await convertOrRenew(set, member, part, context));
    }),
  );
  return paths;
}

async function convertOrRenew(
  set: RepositorySet,
  member: OpenRepository,
  part: ConvertedPart,
  context: DownloadContext,
): Promise<string> {
  try {
    return await ensureConverted(member, part, context);
  } catch (error) {
    // The repository was published anew since its repomd.xml was fetched: start over with it.
    const gone = error instanceof KilnError && error.code === 'E_DOWNLOAD';
    if (!gone || part !== 'primary' || context.signal?.aborted) throw error;
    const renewed = await set.renew(member.repository.id).catch(() => undefined);
    if (renewed === undefined || renewed.index.digest === member.index.digest) throw error;
    return await ensureConverted(renewed, part, context);
  }
}

function solveInput(
  set: RepositorySet,
  request: SolveRequest,
  expanded: Pick<SolveInput, 'members' | 'conditional'>,
  filelists: ReadonlyMap<string, string> | undefined,
): SolveInput {
  return {
    arch: request.arch,
    multilib: request.multilib ?? false,
    repositories: set.members.map(({ repository }) => ({
      id: repository.id,
      priority: repository.priority,
      cost: repository.cost,
      excludepkgs: [...repository.excludepkgs],
      includepkgs: [...repository.includepkgs],
      filelists: filelists?.has(repository.id) ?? false,
    })),
    complete: filelists !== undefined,
    install: request.install.filter((spec) => !spec.startsWith('@')),
    members: expanded.members,
    conditional: expanded.conditional,
    requires: [...(request.requires ?? [])],
    exclude: [...(request.exclude ?? [])],
    recommends: request.recommends ?? false,
    keep: (request.keep?.packages ?? []).map(({ nevra, digest }) => ({ nevra, digest })),
  };
}

async function runSolver(
  set: RepositorySet,
  input: SolveInput,
  primaries: ReadonlyMap<string, string>,
  filelists: ReadonlyMap<string, string> | undefined,
  context: DownloadContext,
): Promise<SolveOutput> {
  await using stack = new AsyncDisposableStack();
  const fds: number[] = [];
  for (const { repository } of set.members) {
    for (const path of [primaries.get(repository.id), filelists?.get(repository.id)]) {
      if (path !== undefined) fds.push(stack.use(await open(path)).fd);
    }
  }
  const answers = runConfined({
    task: 'solver-solve',
    input,
    validate: (value) => solveOutputSchema.parse(value),
    fds,
    limits: LIMITS,
    signal: context.signal,
  });
  for await (const answer of answers) return answer;
  throw new KilnError('E_SOLVER_PROBLEM', 'the solver gave no answer');
}
