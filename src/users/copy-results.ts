import { constants, openSync } from 'node:fs';
import { Budget } from '../artifacts/budget.ts';
import { Destination, type WithRights } from '../artifacts/destination.ts';
import { Inventory, LONGEST_PATH } from '../artifacts/manifest.ts';
import { fromText, quoteName } from '../artifacts/pattern.ts';
import { listEntries } from '../artifacts/source.ts';
import { TreeCopy } from '../artifacts/tree-copy.ts';
import { type Warning, Warnings } from '../artifacts/warning.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';

interface ResultsOptions {
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly writing?: WithRights;
  readonly budget?: Budget;
  readonly warn: (warning: Warning) => void;
}

export async function copyResults(
  from: string,
  to: number,
  path: string,
  { owner, writing, budget = new Budget(), warn }: ResultsOptions,
): Promise<void> {
  using source = closing(openSync(from, constants.O_RDONLY | constants.O_DIRECTORY));
  const destination = new Destination({
    root: to,
    owner,
    ...defined({ writing }),
    replace: true,
    failure: (name, cause) =>
      new KilnError('E_RESULTDIR', `${quoteName(name)} cannot be written to ${path}`, {
        hint: 'name a folder that you may write to, with room for the results',
        cause,
      }),
  });
  const copy = new TreeCopy({
    ...{ budget, destination, links: 'now' },
    inventory: new Inventory(budget, LONGEST_PATH),
    warnings: new Warnings(warn),
  });
  const pair = { from: source.fd, to, source: fromText(path), path: '', depth: 1 };
  await copy.copyEntries(pair, listEntries(source.fd, budget));
  destination.finish();
}
