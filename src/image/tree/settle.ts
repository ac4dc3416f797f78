import { closeSync, constants, fchmodSync, fchownSync, fstatSync, openSync } from 'node:fs';
import { posix } from 'node:path';
import { lchownat } from '../../kernel/at.ts';
import { closing } from '../../kernel/descriptor.ts';
import { setXattr } from '../../kernel/xattr.ts';
import { encodeName } from '../../rpm/filename.ts';
import { readAccounts, readGroups } from './accounts.ts';
import type { DeferredOwner } from './compose.ts';
import { openInTree } from './path.ts';

/**
 * Gives files their owners where no transaction does it: by the tree's own /etc/passwd and
 * /etc/group. Whoever is not in there is root, and gets no set-id bit, as with rpm.
 * @returns rpm's warnings about them.
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

/** Gives back the capabilities that files lost when the transaction changed their owners. */
export function restoreCapabilities(tree: string, deferred: readonly DeferredOwner[]): void {
  const capable = deferred.filter((entry) => entry.capability !== undefined);
  if (capable.length === 0) return;
  withRoot(tree, (root) => {
    for (const { path, file, capability } of capable) {
      withEntry(root, path, (fd) => {
        const { mtimeMs, size } = fstatSync(fd);
        // A scriptlet may have put another file there: that one has none.
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
