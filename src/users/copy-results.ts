import { closeSync, constants, openSync } from 'node:fs';
import { Destination, type WithRights } from '../artifacts/destination.ts';
import { Inventory } from '../artifacts/manifest.ts';
import { fromText, quoteName } from '../artifacts/pattern.ts';
import { listEntries } from '../artifacts/source.ts';
import { TreeCopy } from '../artifacts/tree-copy.ts';
import { type ArtifactWarning, Budget, Warnings } from '../artifacts/warning.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS } from '../host/files/at.ts';

/** PATH_MAX of linux/limits.h, without its NUL. */
export const LONGEST_PATH = 4095;

interface ResultsOptions {
  /** Whose the copies are. */
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly writing?: WithRights;
  readonly budget?: Budget;
  readonly warn: (warning: ArtifactWarning) => void;
}

/**
 * Copies a folder of results into `to`, a descriptor of a folder that messages call `path`.
 * @throws KilnError E_RESULTDIR, E_ARTIFACT_LIMIT
 */
export async function copyResults(
  from: string,
  to: number,
  path: string,
  { owner, writing, budget = new Budget(), warn }: ResultsOptions,
): Promise<void> {
  const source = openSync(from, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const destination = new Destination({
      root: to,
      resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
      owner,
      ...defined({ writing }),
      replace: true,
      failure: (name, cause) => cannotDeliver(path, quoteName(name), cause),
    });
    const copy = new TreeCopy({
      ...{ budget, destination, links: 'now' },
      inventory: new Inventory(budget, LONGEST_PATH),
      warnings: new Warnings(warn),
    });
    const pair = { from: source, to, source: fromText(path), path: '', depth: 1 };
    await copy.copyEntries(pair, listEntries(source, budget));
    destination.finish();
  } finally {
    closeSync(source);
  }
}

function cannotDeliver(path: string, name: string, cause: unknown): KilnError {
  return new KilnError('E_RESULTDIR', `${name} cannot be written to ${path}`, {
    hint: 'name a folder that you may write to, with room for the results',
    cause,
  });
}
