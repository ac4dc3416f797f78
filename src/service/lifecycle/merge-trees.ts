import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  openSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import {
  mkdirat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  renameat,
  unlinkat,
} from '../../host/files/at.ts';
import { copyEntryAt } from '../../image/tree/clone.ts';
import type { TreeEntry } from './tree.ts';

/** What an upgrade does with one path of /etc. */
type MergeAction =
  /** Takes the new image's file. */
  | { readonly do: 'take'; readonly path: string }
  /** Removes a file that is gone from the image and was not changed. */
  | { readonly do: 'remove'; readonly path: string }
  /** Keeps the service's file, with the new image's beside it as .rpmnew. */
  | { readonly do: 'rpmnew'; readonly path: string }
  /** Takes the new image's file, with the service's beside it as .rpmsave. */
  | { readonly do: 'rpmsave'; readonly path: string }
  /** Adds the image's new names to a database of accounts. */
  | { readonly do: 'accounts'; readonly path: string };

/** Merged line by line, because adding an account changes the whole file. */
const ACCOUNTS = new Set(['passwd', 'group', 'shadow', 'gshadow', 'subuid', 'subgid']);

/** Files that every service has of its own. */
const OWN = new Set(['machine-id', 'hostname', 'hosts', 'resolv.conf', 'mtab']);

/**
 * Compares three trees of /etc as rpm compares a changed configuration file: `base` is the image that the
 * service was made of, `mine` the service, `theirs` the new image. `replaced` are %config files without
 * noreplace, which rpm always replaces.
 */
export function planMerge(
  base: ReadonlyMap<string, TreeEntry>,
  mine: ReadonlyMap<string, TreeEntry>,
  theirs: ReadonlyMap<string, TreeEntry>,
  replaced: ReadonlySet<string>,
): MergeAction[] {
  const actions: MergeAction[] = [];
  const paths = new Set([...base.keys(), ...theirs.keys()]);
  for (const path of [...paths].sort()) {
    if (OWN.has(path)) continue;
    const [b, m, t] = [base.get(path), mine.get(path), theirs.get(path)];
    if (b?.identity === t?.identity || m?.identity === t?.identity) continue;
    const unchanged = b?.identity === m?.identity;
    if (t === undefined) {
      if (m === undefined) continue;
      if (unchanged) actions.push({ do: 'remove', path });
      else if (m.kind === 'file') actions.push({ do: 'rpmsave', path });
    } else if (m === undefined || unchanged) actions.push({ do: 'take', path });
    else if (ACCOUNTS.has(path) && m.kind === 'file' && t.kind === 'file') {
      actions.push({ do: 'accounts', path });
    } else if (m.kind === 'directory' && t.kind === 'directory') {
      // The owner or mode was changed by a person: keep it.
    } else if (replaced.has(path)) actions.push({ do: 'rpmsave', path });
    else actions.push({ do: 'rpmnew', path });
  }
  return actions;
}

/**
 * A database of accounts with the lines of `theirs` whose names `mine` lacks. Lines are NAME:…; the service's
 * own come first and do not change.
 */
export function mergeAccounts(mine: string, theirs: string): string {
  const nameOf = (line: string) => line.slice(0, line.indexOf(':'));
  const lines = mine.split('\n').filter((line) => line !== '');
  const names = new Set(lines.map(nameOf));
  const added = theirs.split('\n').filter((line) => line !== '' && !names.has(nameOf(line)));
  return [...lines, ...added].map((line) => `${line}\n`).join('');
}

/** No component of a path may be a link: the plan does not know what lies behind one. */
const FOLDER = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
};

/**
 * Carries out a merge in `target`, an unused copy of the service's tree, with files from `source`, the new
 * image's tree. Returns a sentence for each change that a person should check.
 */
export function mergeTrees(
  source: string,
  target: string,
  actions: readonly MergeAction[],
  theirs: ReadonlyMap<string, TreeEntry>,
): string[] {
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
  const from = openSync(source, flags);
  const to = openSync(target, flags);
  const notes: string[] = [];
  try {
    // Removes the deepest first.
    for (const action of actions.filter((a) => a.do === 'remove').reverse())
      remove(to, action.path);
    for (const action of actions) {
      const note = carryOut(from, to, action, theirs);
      if (note !== undefined) notes.push(note);
    }
  } finally {
    closeSync(from);
    closeSync(to);
  }
  return notes;
}

function carryOut(
  from: number,
  to: number,
  action: MergeAction,
  theirs: ReadonlyMap<string, TreeEntry>,
): string | undefined {
  const { path } = action;
  if (action.do === 'take') {
    remove(to, path);
    return copy(from, to, path, basename(path), theirs)
      ? undefined
      : `${path}: could not be put in place`;
  }
  if (action.do === 'rpmnew') {
    remove(to, `${path}.rpmnew`);
    copy(from, to, path, `${basename(path)}.rpmnew`, theirs);
    return `${path}: yours is kept, the new one is ${path}.rpmnew`;
  }
  if (action.do === 'rpmsave') {
    within(to, path, (folder, name) => renameat(folder, name, folder, `${name}.rpmsave`));
    if (theirs.has(path)) copy(from, to, path, basename(path), theirs);
    return `${path}: yours is now ${path}.rpmsave`;
  }
  if (action.do === 'accounts') {
    mergeAccountFiles(from, to, path);
    return undefined;
  }
  return undefined;
}

/** Copies an entry and makes missing folders above it. False if something is in the way. */
function copy(
  from: number,
  to: number,
  path: string,
  name: string,
  theirs: ReadonlyMap<string, TreeEntry>,
): boolean {
  const folder = dirname(path);
  const source = openat2(from, folder, FOLDER);
  try {
    const target = openat2(to, folder, FOLDER);
    using _target = closing(target);
    if (theirs.get(path)?.kind === 'directory') makeDirectory(source, target, basename(path));
    else copyEntryAt(source, Buffer.from(basename(path)), target, Buffer.from(name));
    return true;
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EEXIST')) return false;
    throw error;
  } finally {
    closeSync(source);
  }
}

/** Makes the folder itself; its content has entries of its own in the plan. */
function makeDirectory(source: number, target: number, name: string): void {
  try {
    mkdirat(target, name, 0o700);
  } catch (error) {
    if (!hasErrno(error, 'EEXIST')) throw error;
  }
  const [model, made] = [openat2(source, name, FOLDER), openat2(target, name, FOLDER)];
  try {
    const stat = fstatSync(model);
    fchownSync(made, stat.uid, stat.gid);
    fchmodSync(made, stat.mode & 0o7777);
  } finally {
    closeSync(model);
    closeSync(made);
  }
}

/** Removes a file, a link or an empty folder. Missing entries and full folders stay as they are. */
function remove(root: number, path: string): void {
  within(root, path, (folder, name) => {
    try {
      unlinkat(folder, name);
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return;
      if (!hasErrno(error, 'EISDIR', 'EPERM')) throw error;
      try {
        unlinkat(folder, name, { directory: true });
      } catch (failure) {
        if (!hasErrno(failure, 'ENOTEMPTY', 'EEXIST')) throw failure;
      }
    }
  });
}

function within(root: number, path: string, act: (folder: number, name: string) => void): void {
  let folder: number;
  try {
    folder = openat2(root, dirname(path), FOLDER);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return;
    throw error;
  }
  try {
    act(folder, basename(path));
  } finally {
    closeSync(folder);
  }
}

function mergeAccountFiles(from: number, to: number, path: string): void {
  const plain = { resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
  const theirs = openat2(from, path, { ...plain, flags: constants.O_RDONLY });
  using _theirs = closing(theirs);
  const mine = openat2(to, path, { ...plain, flags: constants.O_RDWR });
  using _mine = closing(mine);
  // The plan says that both are plain files. The target is a copy, so a partial write does no harm.
  const text = mergeAccounts(readFileSync(mine, 'utf8'), readFileSync(theirs, 'utf8'));
  writeFileSync(`/proc/self/fd/${mine}`, text);
}
