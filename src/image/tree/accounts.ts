import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  openSync,
  readFileSync,
} from 'node:fs';
import { posix } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { lchownat } from '../../host/files/at.ts';
import { setXattr } from '../../host/files/xattr.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import type { DeferredOwner } from './compose.ts';
import { openInTree } from './path.ts';

/** A line of /etc/passwd. */
export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

/** A line of /etc/group. */
export interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Larger databases (bytes) are not read: they come from a package or a scriptlet. */
const SIZE_LIMIT = 1024 * 1024;

/** The highest id that a sandbox maps. */
const MAX_ID = 65535;

/** The root user of an image without /etc/passwd. */
export const ROOT_ACCOUNT: Account = {
  name: 'root',
  uid: 0,
  gid: 0,
  home: '/root',
  shell: '/bin/sh',
};

/** The users of the tree whose root directory is open as `root`; malformed lines are ignored. */
export function readAccounts(root: number): Account[] {
  return lines(root, '/etc/passwd').flatMap((line) => {
    const [name, , uid, gid, , home, shell] = line.split(':');
    if (!name || !isId(uid) || !isId(gid)) return [];
    return [
      { name, uid: Number(uid), gid: Number(gid), home: home || '/', shell: shell || '/bin/sh' },
    ];
  });
}

/** The groups of the tree whose root directory is open as `root`. */
export function readGroups(root: number): Group[] {
  return lines(root, '/etc/group').flatMap((line) => {
    const [name, , gid, members] = line.split(':');
    if (!name || !isId(gid)) return [];
    return [{ name, gid: Number(gid), members: (members ?? '').split(',').filter(Boolean) }];
  });
}

/**
 * The text of a file of the tree, with links resolved inside the tree; undefined if it is missing or not a
 * plain file.
 */
function readTreeFile(root: number, path: string): string | undefined {
  const fd = openInTree(root, path, constants.O_RDONLY);
  if (fd === undefined) return undefined;
  try {
    const stat = fstatSync(fd);
    return stat.isFile() && stat.size <= SIZE_LIMIT ? readFileSync(fd, 'utf8') : undefined;
  } finally {
    closeSync(fd);
  }
}

function lines(root: number, path: string): string[] {
  return (readTreeFile(root, path) ?? '').split('\n');
}

function isId(text: string | undefined): boolean {
  return text !== undefined && /^\d{1,5}$/.test(text) && Number(text) <= MAX_ID;
}

/**
 * Sets the owners of files without a transaction, by the tree's own /etc/passwd and /etc/group. An unknown
 * owner becomes root and the file gets no set-id bit, as with rpm. @returns rpm's warnings about them.
 */
export function settleOwners(tree: string, deferred: readonly DeferredOwner[]): string[] {
  const warnings = new Set<string>();
  withRoot(tree, (root) => {
    const users = new Map(readAccounts(root).map((account) => [account.name, account.uid]));
    const groups = new Map(readGroups(root).map((group) => [group.name, group.gid]));
    for (const { path, file, capability } of deferred) {
      const uid = file.owner === 'root' ? 0 : users.get(file.owner);
      const gid = file.group === 'root' ? 0 : groups.get(file.group);
      if (uid === undefined) warnings.add(`user ${file.owner} does not exist - using root`);
      if (gid === undefined) warnings.add(`group ${file.group} does not exist - using root`);
      const lost = (uid === undefined ? 0o4000 : 0) | (gid === undefined ? 0o2000 : 0);
      if (file.type === 'symlink') {
        chownLink(root, path, uid ?? 0, gid ?? 0);
      } else if (file.type === 'file' || file.type === 'directory') {
        withEntry(root, path, (fd) => {
          fchownSync(fd, uid ?? 0, gid ?? 0);
          fchmodSync(fd, file.mode & 0o7777 & ~lost);
          if (capability !== undefined) setXattr(fd, 'security.capability', capability);
        });
      }
    }
  });
  return [...warnings];
}

/** Restores capabilities that files lost when the transaction changed their owners. */
export function restoreCapabilities(tree: string, deferred: readonly DeferredOwner[]): void {
  const capable = deferred.filter((entry) => entry.capability !== undefined);
  if (capable.length === 0) return;
  withRoot(tree, (root) => {
    for (const { path, file, capability } of capable) {
      withEntry(root, path, (fd) => {
        const { mtimeMs, size } = fstatSync(fd);
        // A scriptlet may have replaced the file: the new one has no capabilities.
        const same = size === file.size && Math.floor(mtimeMs / 1000) === file.mtime;
        if (same) setXattr(fd, 'security.capability', capability!);
      });
    }
  });
}

function withRoot(tree: string, act: (root: number) => void): void {
  const root = openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY);
  using _root = closing(root);
  act(root);
}

function withEntry(root: number, path: string, act: (fd: number) => void): void {
  const fd = openInTree(root, encodeName(path), constants.O_RDONLY | constants.O_NOFOLLOW);
  if (fd === undefined) return;
  try {
    act(fd);
  } finally {
    closeSync(fd);
  }
}

function chownLink(root: number, path: string, uid: number, gid: number): void {
  withEntry(root, posix.dirname(path), (folder) => {
    lchownat(folder, encodeName(posix.basename(path)), uid, gid);
  });
}
