/** Short ways to the functions under test. */

import { type Repository, resolveRepository } from '../../src/packages/repository/configuration.ts';
import {
  type RepositoryInput,
  repositorySchema,
} from '../../src/packages/repository/configuration-schema.ts';
import type { Lock } from '../../src/packages/repository/lock/lock.ts';
import { type OpenOptions, openRepositories } from '../../src/packages/repository/open.ts';
import { solve } from '../../src/packages/solver/solve.ts';
import type { SolveRequest } from '../../src/packages/solver/solve-request.ts';

/** Few tries and short pauses, so that tests of failures are short; waits for a busy machine. */
export const impatient = { attempts: 4, backoff: 10 };

/** Gives up on a server soon. */
export const veryImpatient = {
  ...impatient,
  answerTimeout: 2500,
  idleTimeout: 1500,
  minimumRate: 1000,
  rateWindow: 1500,
};

/** A repository as a recipe would name it. */
export function repository(input: RepositoryInput): Repository {
  return resolveRepository(repositorySchema.parse(input), {
    arch: 'x86_64',
    releasever: '1',
    baseDirectory: '/',
  });
}

/** Opens repositories with a cache in `cache` and solves. */
export async function lockOf(
  repositories: readonly Repository[],
  cache: string,
  request: Partial<SolveRequest> & Pick<SolveRequest, 'install'>,
  options: Partial<OpenOptions> = {},
): Promise<Lock> {
  const set = await openRepositories(repositories, {
    paths: { cache },
    transfer: impatient,
    ...options,
  });
  const { lock } = await solve(set, { arch: 'x86_64', ...request });
  return lock;
}

/** NEVRAs of a lock, sorted. */
export function nevras(lock: Lock): string[] {
  return lock.packages.map(({ nevra }) => nevra).sort();
}
