/** The results of a chain that a step brings, as a repository of this machine's own making. */
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { publishRepository } from '../packages/repository/publish/snapshot.ts';
import type { Step } from './step.ts';

/** A repository, there until this is disposed of. */
interface OwnResults extends AsyncDisposable {
  readonly path: string;
}

/**
 * Publishes the packages of a step's results once more. The metadata that the step brings is not read: it could name
 * any file or server, and any package by its digest. Links are not followed.
 * @returns undefined where the step has no results
 * @throws KilnError E_FARM_STEP where they are not those that the step means; E_RPM_FORMAT, E_REPOSITORY_COLLISION
 */
export async function ownResults(
  { results }: Step,
  { results: folder, work }: { readonly results: string | undefined; readonly work: string },
  signal: AbortSignal | undefined,
): Promise<OwnResults | undefined> {
  if (results === null || folder === undefined) return undefined;
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const files = entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.rpm'))
    .map(({ name }) => ({ path: join(folder, name) }));
  const directory = join(work, `results-${randomUUID()}`);
  await using made = new AsyncDisposableStack();
  made.defer(() => removeTree(directory));
  const snapshot = made.use(await publishRepository(directory, files, { signal }));
  if (snapshot.id !== results.snapshot) throw otherResults(results.folder);
  const held = made.move();
  return { path: snapshot.path, [Symbol.asyncDispose]: () => held.disposeAsync() };
}

function otherResults(folder: string): KilnError {
  return new KilnError('E_FARM_STEP', `${folder} does not have the packages that the step means`, {
    hint: 'it was changed after the step was written, or damaged on its way; links count for nothing',
  });
}
