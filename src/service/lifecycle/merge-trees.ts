import { constants, fchmodSync, fchownSync, fstatSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno, succeeds, unlessErrno } from '../../host/calls/libc.ts';
import {
  AT_FDCWD,
  DIRECTORY_BELOW,
  mkdirat,
  openat2,
  openDirectory,
  RESOLVE_BELOW,
  renameat,
  unlinkat,
} from '../../host/files/at.ts';
import { copyEntryAt } from '../../image/tree/clone.ts';
import type { TreeEntry } from './tree.ts';

/**
 * `rpmnew` keeps the service's file, with the new image's beside it; `rpmsave` takes the new one, with the
 * service's beside it; `accounts` adds the new image's names.
 */
interface MergeAction {
  readonly do: 'take' | 'remove' | 'rpmnew' | 'rpmsave' | 'accounts';
  readonly path: string;
}

/** Merged line by line, because adding an account changes the whole file. */
const ACCOUNTS = new Set(['passwd', 'group', 'shadow', 'gshadow', 'subuid', 'subgid']);

const OWN = new Set(['machine-id', 'hostname', 'hosts', 'resolv.conf', 'mtab']);

/**
 * Compares three trees of /etc as rpm compares a changed configuration file: `base` is the service's old
 * image, `theirs` the new one. `replaced` are %config files without noreplace, which rpm always replaces.
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

export function mergeAccounts(mine: string, theirs: string): string {
  const nameOf = (line: string) => line.slice(0, line.indexOf(':'));
  const lines = mine.split('\n').filter((line) => line !== '');
  const names = new Set(lines.map(nameOf));
  const added = theirs.split('\n').filter((line) => line !== '' && !names.has(nameOf(line)));
  return [...lines, ...added].map((line) => `${line}\n`).join('');
}

/** No component of a path may be a link: the plan does not know what lies behind one. */
export function mergeTrees(
  source: string,
  target: string,
  actions: readonly MergeAction[],
  theirs: ReadonlyMap<string, TreeEntry>,
): string[] {
  using from = closing(openDirectory(AT_FDCWD, source));
  using to = closing(openDirectory(AT_FDCWD, target));
  for (const { path } of actions.filter((a) => a.do === 'remove').reverse()) remove(to.fd, path);
  const merge = { from: from.fd, to: to.fd, theirs };
  return actions.map((action) => carryOut(action, merge)).filter((note) => note !== undefined);
}

interface Merge {
  readonly from: number;
  readonly to: number;
  readonly theirs: ReadonlyMap<string, TreeEntry>;
}

function carryOut({ do: what, path }: MergeAction, merge: Merge): string | undefined {
  const { from, to, theirs } = merge;
  const name = basename(path);
  switch (what) {
    case 'take':
      remove(to, path);
      return copy(path, name, merge) ? undefined : `${path}: could not be put in place`;
    case 'rpmnew':
      remove(to, `${path}.rpmnew`);
      copy(path, `${name}.rpmnew`, merge);
      return `${path}: yours is kept, the new one is ${path}.rpmnew`;
    case 'rpmsave':
      within(to, path, (folder) => renameat(folder, name, folder, `${name}.rpmsave`));
      if (theirs.has(path)) copy(path, name, merge);
      return `${path}: yours is now ${path}.rpmsave`;
    case 'accounts':
      mergeAccountFiles(from, to, path);
      return undefined;
    case 'remove':
      return undefined;
  }
}

function copy(path: string, name: string, { from, to, theirs }: Merge): boolean {
  const folder = dirname(path);
  using source = closing(openat2(from, folder, DIRECTORY_BELOW));
  return succeeds(['ENOENT', 'ENOTDIR', 'ELOOP', 'EEXIST'], () => {
    using target = closing(openat2(to, folder, DIRECTORY_BELOW));
    if (theirs.get(path)?.kind === 'directory') makeDirectory(source.fd, target.fd, basename(path));
    else copyEntryAt(source.fd, Buffer.from(basename(path)), target.fd, Buffer.from(name));
  });
}

function makeDirectory(source: number, target: number, name: string): void {
  unlessErrno(['EEXIST'], () => mkdirat(target, name, 0o700));
  using model = closing(openat2(source, name, DIRECTORY_BELOW));
  using made = closing(openat2(target, name, DIRECTORY_BELOW));
  const stat = fstatSync(model.fd);
  fchownSync(made.fd, stat.uid, stat.gid);
  fchmodSync(made.fd, stat.mode & 0o7777);
}

function remove(root: number, path: string): void {
  within(root, path, (folder, name) => {
    try {
      unlinkat(folder, name);
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) return;
      if (!hasErrno(error, 'EISDIR', 'EPERM')) throw error;
      unlessErrno(['ENOTEMPTY', 'EEXIST'], () => unlinkat(folder, name, { directory: true }));
    }
  });
}

function within(root: number, path: string, act: (folder: number, name: string) => void): void {
  const open = () => closing(openat2(root, dirname(path), DIRECTORY_BELOW));
  using folder = unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP'], open);
  if (folder !== undefined) act(folder.fd, basename(path));
}

function mergeAccountFiles(from: number, to: number, path: string): void {
  const plain = { resolve: RESOLVE_BELOW };
  using theirs = closing(openat2(from, path, { ...plain, flags: constants.O_RDONLY }));
  using mine = closing(openat2(to, path, { ...plain, flags: constants.O_RDWR }));
  // The plan says that both are plain files. The target is a copy, so a partial write does no harm.
  const text = mergeAccounts(readFileSync(mine.fd, 'utf8'), readFileSync(theirs.fd, 'utf8'));
  writeFileSync(`/proc/self/fd/${mine.fd}`, text);
}
