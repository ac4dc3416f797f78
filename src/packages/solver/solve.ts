import { hash } from 'node:crypto';
import { utimes } from 'node:fs/promises';
import { findCached, recordText, withFields } from '../../host/state/checked-file.ts';
import { writeWhole } from '../repository/cache.ts';
import { LOCK_FORMAT } from '../repository/lock/lock.ts';
import type { RepositorySet } from '../repository/open.ts';
import { lockAccess } from '../repository/transport/access.ts';
import type { DownloadContext } from '../repository/transport/transfer.ts';
import { solveAnew } from './solve-anew.ts';
import type { Solution, SolveRequest } from './solve-request.ts';

/** Raised when equal questions may have another answer: new flags, another way to choose. */
const FORMAT = 5;

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
  const solution = await solveAnew(set, request, context);
  // Repositories that were renewed meanwhile make another question, which this does not answer.
  if (solutionPath(set, question) === path) await writeWhole(path, recordText(solution));
  return solution;
}

/** Where an answer is kept: named by all it depends on, the repositories' content (repomd.xml's digest) among it. */
function solutionPath(set: RepositorySet, question: unknown): string {
  const content = set.members.map(({ index, repository }) => [index.digest, repository]);
  const text = JSON.stringify([FORMAT, content, question]);
  return set.context.cache.solution(hash('sha256', text, 'hex'));
}

async function readSolution(path: string): Promise<Solution | undefined> {
  // Only the format is checked: kiln's own solver wrote the lock.
  const value = findCached(path, takeSolution);
  if (value?.lock.format !== LOCK_FORMAT) return undefined;
  const now = new Date();
  await utimes(path, now, now);
  return value;
}

const takeSolution = withFields<Solution>({ lock: 'object', warnings: 'array' });
