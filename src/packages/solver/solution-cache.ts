import { createHash } from 'node:crypto';
import { utimes } from 'node:fs/promises';
import { dropCached, findRecord, recordText, withFields } from '../../host/state/checked-file.ts';
import { writeWhole } from '../repository/cache.ts';
import type { Lock } from '../repository/lock/lock.ts';
import { LOCK_FORMAT } from '../repository/lock/lock-format.ts';
import type { RepositorySet } from '../repository/open.ts';

/** Raised when equal questions may have another answer: new flags, another way to choose. */
const FORMAT = 3;

/** An answer of the solver. */
export interface CachedSolution {
  readonly lock: Lock;
  readonly warnings: readonly string[];
}

/**
 * Where the answer to a question is kept: named by everything it depends on, the repositories'
 * content (repomd.xml's digest) among it.
 * @param question what is asked, plain data.
 */
export function solutionPath(set: RepositorySet, question: unknown): string {
  const content = set.members.map(({ index, repository }) => [index.digest, repository]);
  const text = JSON.stringify([FORMAT, content, question]);
  const name = createHash('sha256').update(text).digest('hex');
  return set.context.cache.solution(name);
}

/** The kept answer, or undefined. */
export async function readSolution(path: string): Promise<CachedSolution | undefined> {
  // All else that a lock is checked for when people bring one, the solver has met.
  const { value, damage } = findRecord(path, takeSolution);
  if (damage !== undefined) dropCached(damage);
  if (value?.lock.format !== LOCK_FORMAT) return undefined;
  const now = new Date();
  await utimes(path, now, now);
  return value;
}

const takeSolution = withFields<CachedSolution>({ lock: 'object', warnings: 'array' });

export async function writeSolution(path: string, solution: CachedSolution): Promise<void> {
  await writeWhole(path, recordText(solution));
}
