import { open } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { runConfined } from '../../host/confine/run.ts';
import type { OpenRepository, RepositorySet } from '../repository/open.ts';
import type { DownloadContext } from '../repository/transport/download.ts';
import { type ConvertedPart, dropConverted, ensureConverted, readGroups } from './converted.ts';
import { expandGroups } from './groups.ts';
import { makeLock } from './make-lock.ts';
import type { Solution, SolveRequest } from './solve.ts';
import { type SolveInput, type SolveOutput, solveOutputSchema } from './solve-input.ts';
import { solverError } from './solver-error.ts';

/** 60,000 packages take 150 MB; a hostile problem may take any time. */
const LIMITS = { memory: 4 * 2 ** 30, cpuSeconds: 300, wallMs: 600_000, fileSize: 0 };

/**
 * Asks the solver, whatever it has answered before. @throws KilnError as `solve` does.
 */
export async function solveAnew(
  set: RepositorySet,
  request: SolveRequest,
  context: DownloadContext,
): Promise<Solution> {
  const primaries = await convertAll(set, 'primary', context);
  const modules = await convertAll(set, 'modules', context);
  const groups = request.install.filter((spec) => spec.startsWith('@'));
  const known =
    groups.length === 0
      ? []
      : await Promise.all(set.members.map((member) => readGroups(member, context)));
  const expanded = expandGroups(
    known.flat(),
    groups.map((spec) => spec.slice(1)),
  );
  const ask = async (filelists: ReadonlyMap<string, string> | undefined) => {
    const input = solveInput(set, request, expanded, { filelists, modules });
    return await runSolver(set, input, { primaries, filelists, modules }, context);
  };
  let answer = await ask(undefined);
  if (answer.kind === 'damaged') {
    await Promise.all(set.members.map((member) => dropConverted(member, context)));
    for (const part of ['primary', 'modules'] as const) await convertAll(set, part, context);
    answer = await ask(undefined);
  }
  if (answer.kind === 'incomplete') answer = await ask(await convertAll(set, 'filelists', context));
  if (answer.kind !== 'solved') throw solverError(answer);
  if (answer.packages.length === 0 && answer.idle.length > 0) throw asksForNothing(answer.idle);
  const warnings = [
    ...answer.missing.map((name) => `no repository has ${name}, which is in a requested group`),
    ...answer.gone.map((nevra) => `no repository has ${nevra} any more`),
    ...answer.warnings,
    ...answer.idle.map((text) => `${text} asks for nothing here: its condition is not met`),
  ];
  return { lock: makeLock(set, request, answer.packages), warnings };
}

function asksForNothing(idle: readonly string[]): KilnError {
  const many = idle.length > 1;
  return new KilnError(
    'E_SOLVER_REQUEST',
    `${idle.join(' and ')} ${many ? 'ask' : 'asks'} for nothing: ${many ? 'their conditions are' : 'its condition is'} not met, and nothing else is asked for`,
    { hint: 'name the package itself, or ask for what the condition is about as well' },
  );
}

/** Paths of converted metadata by repository id, for each part. */
interface Converted {
  readonly primaries: ReadonlyMap<string, string>;
  readonly filelists: ReadonlyMap<string, string> | undefined;
  readonly modules: ReadonlyMap<string, string>;
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
  { filelists, modules }: Omit<Converted, 'primaries'>,
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
      modules: modules.has(repository.id),
      moduleHotfixes: repository.moduleHotfixes,
    })),
    complete: filelists !== undefined,
    install: request.install.filter((spec) => !spec.startsWith('@')),
    members: expanded.members,
    conditional: expanded.conditional,
    requires: [...(request.requires ?? [])],
    exclude: [...(request.exclude ?? [])],
    modules: { enable: [], disable: [], install: [], obsoletes: false, ...request.modules },
    recommends: request.recommends ?? false,
    keep: (request.keep?.packages ?? []).map(({ nevra, digest }) => ({ nevra, digest })),
  };
}

async function runSolver(
  set: RepositorySet,
  input: SolveInput,
  { primaries, filelists, modules }: Converted,
  context: DownloadContext,
): Promise<SolveOutput> {
  await using stack = new AsyncDisposableStack();
  const fds: number[] = [];
  for (const { repository } of set.members) {
    for (const part of [primaries, filelists, modules]) {
      const path = part?.get(repository.id);
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
