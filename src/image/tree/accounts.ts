import { constants, fchmodSync, fchownSync, fstatSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { closing, setXattr } from '../../host/calls/descriptor.ts';
import { AT_FDCWD, lchownat, openDirectory, openInTree } from '../../host/files/at.ts';
import { encodeName } from '../../packages/rpm/filename.ts';
import type { DeferredOwner } from './compose.ts';

export interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
}

export interface Group {
  readonly name: string;
  readonly gid: number;
}

/** Bytes; larger databases are not read: they come from a package or a scriptlet. */
const SIZE_LIMIT = 1024 * 1024;

const MAX_ID = 65535;

export const ROOT_ACCOUNT: Account = {
  name: 'root',
  uid: 0,
  gid: 0,
  home: '/root',
  shell: '/bin/sh',
};

export function readAccounts(root: number): Account[] {
  return lines(root, '/etc/passwd').flatMap((line) => {
    const [name, , uid, gid, , home, shell] = line.split(':');
    if (!name || !isId(uid) || !isId(gid)) return [];
    return [
      { name, uid: Number(uid), gid: Number(gid), home: home || '/', shell: shell || '/bin/sh' },
    ];
  });
}

export function readGroups(root: number): Group[] {
  return lines(root, '/etc/group').flatMap((line) => {
    const [name, , gid] = line.split(':');
    return name && isId(gid) ? [{ name, gid: Number(gid) }] : [];
  });
}

/** Links are resolved inside the tree; no lines if there is no such plain file. */
function lines(root: number, path: string): string[] {
  using file = openInTree(root, path, constants.O_RDONLY);
  if (file === undefined) return [];
  const stat = fstatSync(file.fd);
  return stat.isFile() && stat.size <= SIZE_LIMIT ? readFileSync(file.fd, 'utf8').split('\n') : [];
}

function isId(text: string | undefined): boolean {
  return text !== undefined && /^\d{1,5}$/.test(text) && Number(text) <= MAX_ID;
}

/**
 * Owners without a transaction, by the tree's own /etc/passwd and /etc/group. An unknown one becomes root and
 * the file gets no set-id bit, as with rpm. @returns rpm's warnings about them
 */
export function settleOwners(tree: string, deferred: readonly DeferredOwner[]): string[] {
  const warnings = new Set<string>();
  using root = closing(openDirectory(AT_FDCWD, tree));
  const users = new Map(readAccounts(root.fd).map((account) => [account.name, account.uid]));
  const groups = new Map(readGroups(root.fd).map((group) => [group.name, group.gid]));
  for (const { path, file, capability } of deferred) {
    const uid = file.owner === 'root' ? 0 : users.get(file.owner);
    const gid = file.group === 'root' ? 0 : groups.get(file.group);
    if (uid === undefined) warnings.add(`user ${file.owner} does not exist - using root`);
    if (gid === undefined) warnings.add(`group ${file.group} does not exist - using root`);
    const lost = (uid === undefined ? 0o4000 : 0) | (gid === undefined ? 0o2000 : 0);
    if (file.type === 'symlink') {
      withEntry(root.fd, posix.dirname(path), (folder) => {
        lchownat(folder, encodeName(posix.basename(path)), uid ?? 0, gid ?? 0);
      });
    } else if (file.type === 'file' || file.type === 'directory') {
      withEntry(root.fd, path, (fd) => {
        fchownSync(fd, uid ?? 0, gid ?? 0);
        fchmodSync(fd, file.mode & 0o7777 & ~lost);
        if (capability !== undefined) setXattr(fd, 'security.capability', capability);
      });
    }
  }
  return [...warnings];
}

export function restoreCapabilities(tree: string, deferred: readonly DeferredOwner[]): void {
  const capable = deferred.filter((entry) => entry.capability !== undefined);
  if (capable.length === 0) return;
  using root = closing(openDirectory(AT_FDCWD, tree));
  for (const { path, file, capability } of capable) {
    withEntry(root.fd, path, (fd) => {
      const { mtimeMs, size } = fstatSync(fd);
      // A scriptlet may have replaced the file: the new one has no capabilities.
      const same = size === file.size && Math.floor(mtimeMs / 1000) === file.mtime;
      if (same) setXattr(fd, 'security.capability', capability!);
    });
  }
}

function withEntry(root: number, path: string, act: (fd: number) => void): void {
  using entry = openInTree(root, encodeName(path), constants.O_RDONLY | constants.O_NOFOLLOW);
  if (entry !== undefined) act(entry.fd);
}
