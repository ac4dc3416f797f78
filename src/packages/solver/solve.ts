import type { Lock } from '../repository/lock/lock.ts';
import type { RepositorySet } from '../repository/open.ts';
import { lockAccess } from '../repository/transport/access.ts';
import type { DownloadContext } from '../repository/transport/download.ts';
import type { OnProgress } from '../repository/transport/progress.ts';
import { readSolution, solutionPath, writeSolution } from './solution-cache.ts';
import type { ModuleRequest } from './solve-input.ts';

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
  /** Streams of modules to enable, to disable, or to install; none unless given. */
  readonly modules?: Partial<ModuleRequest> | undefined;
  /** Install what is only recommended, too; off unless set. */
  readonly recommends?: boolean | undefined;
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

/**
 * Finds the packages that `request` means, with everything they need, and their order.
 * @throws KilnError E_SOLVER_PROBLEM (`details.problems`: libsolv's own words, a list for each
 * problem), E_SOLVER_NO_MATCH (`details.names`), E_SOLVER_REQUEST, E_SOLVER_MODULE, E_SOLVER_MISSING, E_DOWNLOAD,
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
  if (known !== undefined) {
    // What is kept has no secrets.
    const access = lockAccess(set.members.map(({ repository }) => repository));
    return { ...known, lock: { ...known.lock, ...access } };
  }
  // Most questions have been asked before: then none of this is needed.
  const { solveAnew } = await import('./solve-anew.ts');
  const solution = await solveAnew(set, request, context);
  // The repositories may have been renewed on the way: that is another question.
  if (solutionPath(set, question) === path) await writeSolution(path, solution);
  return solution;
}
