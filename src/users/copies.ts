/** Copies of files: what a job reads of its caller's, whose client has opened it, and what it has made for the caller. */
import { constants, fchmodSync, fstatSync, openSync } from 'node:fs';
import { Budget } from '../artifacts/budget.ts';
import { type ByteString, fromText, quoteName } from '../artifacts/byte-string.ts';
import { copyContent, ReadFailed } from '../artifacts/content.ts';
import { Destination, type WithRights } from '../artifacts/destination.ts';
import { Inventory, LONGEST_PATH } from '../artifacts/manifest.ts';
import { FileSystems, listEntries } from '../artifacts/source.ts';
import { TreeCopy } from '../artifacts/tree-copy.ts';
import { type Warning, Warnings } from '../artifacts/warning.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { unusableError } from './caller-paths.ts';

interface Copying {
  /** All copies of a job share one. */
  readonly budget: Budget;
  readonly warn: (warning: Warning) => void;
  /** `later`: only those that lead to another copied file; a warning tells of the others. */
  readonly links: 'now' | 'later';
  readonly reading?: WithRights;
}

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
  const failure = (name: ByteString, cause: unknown) =>
    new KilnError('E_RESULTDIR', `${quoteName(name)} cannot be written to ${path}`, {
      hint: 'name a folder that you may write to, with room for the results',
      cause,
    });
  const how = { root: to, owner, ...defined({ writing }), replace: true, failure };
  const entries = listEntries(source.fd, budget);
  await copyEntries(entries, source.fd, path, how, { budget, warn, links: 'now' });
}

/** Of a user, to an empty folder of kiln's. @throws KilnError E_CALLER_FILE */
export async function copyFolder(
  from: number,
  path: string,
  folder: string,
  copying: Copying & { readonly reading: WithRights },
): Promise<void> {
  using to = closing(openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY));
  const failure = (name: ByteString, cause: unknown) =>
    new KilnError('E_CALLER_FILE', `${quoteName(name)} of ${path} cannot be copied`, {
      hint: 'root makes room in the state folder',
      cause,
    });
  const how = { root: to.fd, owner: { uid: 0, gid: 0 }, replace: false, failure };
  const { budget, reading } = copying;
  const entries = usingRights(reading, path, () => listEntries(from, budget));
  await copyEntries(entries, from, path, how, copying);
}

async function copyEntries(
  entries: ReturnType<typeof listEntries>,
  from: number,
  path: string,
  to: ConstructorParameters<typeof Destination>[0],
  { warn, ...how }: Copying,
): Promise<void> {
  const destination = new Destination(to);
  const copy = new TreeCopy({
    ...{ ...how, destination, warnings: new Warnings(warn) },
    inventory: new Inventory(how.budget, LONGEST_PATH),
  });
  const pair = { from, to: to.root, source: fromText(path), path: '', depth: 1 };
  await copy.copyEntries(pair, entries);
  copy.makeLinks();
  destination.finish();
}

/** Of a user. @throws KilnError E_CALLER_FILE */
export async function copyFile(
  from: number,
  path: string,
  copy: string,
  budget: Budget,
): Promise<void> {
  const stats = fstatSync(from, { bigint: true });
  if (!stats.isFile() || new FileSystems().isPseudo(from, stats)) {
    throw new KilnError('E_CALLER_FILE', `${path} is not a regular file`, {
      hint: 'only files and folders are copied for you: write what it gives into a file first',
    });
  }
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  using to = closing(openSync(copy, flags, 0o600));
  try {
    budget.spend('entries', 1);
    await copyContent(from, to.fd, Number(stats.size), Number(stats.blocks), budget);
    fchmodSync(to.fd, Number(stats.mode) & 0o777);
  } catch (error) {
    throw error instanceof ReadFailed ? unusableError(path, error.cause) : error;
  }
}

/** @throws KilnError E_CALLER_FILE */
export function usingRights<Result>(rights: WithRights, path: string, act: () => Result): Result {
  try {
    return rights(act);
  } catch (cause) {
    throw unusableError(path, cause);
  }
}
