import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { posix } from 'node:path';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import {
  mkdirat,
  NEW_FILE,
  openat2,
  openDirectory,
  openInTree,
  renameat,
  statAt,
  unlinkat,
} from '../../host/files/at.ts';
import type { RecipeUser } from '../../recipe/image-recipe.ts';
import { type Account, type Group, readAccounts, readGroups } from './accounts.ts';

const IN_THE_WAY = 'a package or a scriptlet has put something else there';

export interface FileFacts {
  readonly path: string;
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
}

export interface FileToWrite extends FileFacts {
  readonly content: Buffer;
}

const ACCOUNT_FILES = ['/etc/passwd', '/etc/group', '/etc/shadow', '/etc/gshadow'];

interface TreeAdditions {
  readonly users: readonly RecipeUser[];
  readonly folders?: readonly string[] | undefined;
  readonly files: readonly FileToWrite[];
}

const FIRST_LINES: Readonly<Record<string, string>> = {
  '/etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
  '/etc/group': 'root:x:0:\n',
};

/**
 * Adds users (with groups and homes), then folders and files. @returns paths of files that it may have written
 * @param root the tree's open root directory
 * @throws KilnError E_IMAGE_USER for ids and names that clash or do not exist; E_IMAGE_TREE
 */
export function customizeTree(
  root: number,
  { users, folders = [], files }: TreeAdditions,
): readonly string[] {
  for (const user of users) addUser(root, user);
  for (const path of folders) closeSync(makeTreeDirectories(root, path));
  const accounts = new Map(readAccounts(root).map((account) => [account.name, account.uid]));
  const groups = new Map(readGroups(root).map((group) => [group.name, group.gid]));
  for (const file of files) {
    const uid = file.owner === 'root' ? 0 : accounts.get(file.owner);
    const gid = file.group === 'root' ? 0 : groups.get(file.group);
    if (uid === undefined || gid === undefined) {
      const missing = uid === undefined ? `user ${file.owner}` : `group ${file.group}`;
      throw new KilnError('E_IMAGE_USER', `${file.path}: the image has no ${missing}`, {
        hint: 'add it to `users`, or install the package that brings it',
      });
    }
    writeTreeFile(root, file.path, file.content, { mode: file.mode, uid, gid });
  }
  return [...ACCOUNT_FILES, ...files.map(({ path }) => path)];
}

function addUser(root: number, user: RecipeUser): void {
  const gid = user.gid ?? user.uid;
  const home = user.home ?? `/home/${user.name}`;
  const accounts = readAccounts(root);
  const groups = readGroups(root);
  checkFree(user, accounts);
  const byId = groups.find((group) => group.gid === gid);
  if (byId === undefined) addGroup(root, user.group ?? user.name, gid, groups);
  append(
    root,
    '/etc/passwd',
    `${user.name}:x:${user.uid}:${gid}:${user.comment}:${home}:${user.shell}`,
  );
  // No password matches: nobody can log in, and nothing in a sandbox asks for one.
  append(root, '/etc/shadow', `${user.name}:!::0:99999:7:::`);
  for (const name of user.groups) joinGroup(root, user.name, name);
  closeSync(makeTreeDirectories(root, home, { mode: 0o755, uid: user.uid, gid }));
}

function checkFree(user: RecipeUser, accounts: readonly Account[]): void {
  const name = accounts.find((account) => account.name === user.name);
  const uid = accounts.find((account) => account.uid === user.uid);
  const clash = name === undefined ? uid : name;
  if (clash === undefined) return;
  throw new KilnError(
    'E_IMAGE_USER',
    `user ${user.name} (${user.uid}) cannot be added: the packages bring ${clash.name} (${clash.uid})`,
    { hint: 'take another name or uid in the recipe' },
  );
}

function addGroup(root: number, name: string, gid: number, groups: readonly Group[]): void {
  if (groups.some((group) => group.name === name)) {
    throw new KilnError('E_IMAGE_USER', `group ${name} cannot be added: the packages bring one`, {
      hint: 'give the user the gid of that group',
    });
  }
  append(root, '/etc/group', `${name}:x:${gid}:`);
  append(root, '/etc/gshadow', `${name}:!::`);
}

/** A new group gets the next free id from 1000 on, as with groupadd(8). */
function joinGroup(root: number, user: string, name: string): void {
  const groups = readGroups(root);
  if (!groups.some((group) => group.name === name)) {
    const taken = new Set(groups.map((group) => group.gid));
    let gid = 1000;
    while (taken.has(gid)) gid++;
    addGroup(root, name, gid, groups);
  }
  const member = (line: string) => {
    if (!line.startsWith(`${name}:`)) return line;
    return line.endsWith(':') ? `${line}${user}` : `${line},${user}`;
  };
  const joined = (text: string) => text.split('\n').map(member).join('\n');
  changeTreeFile(root, '/etc/group', joined);
  changeTreeFile(root, '/etc/gshadow', joined);
}

function append(root: number, path: string, line: string): void {
  const add = (text: string) => `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${line}\n`;
  if (changeTreeFile(root, path, add)) return;
  const first = FIRST_LINES[path];
  if (first === undefined) return;
  writeTreeFile(root, path, add(first), { mode: 0o644, uid: 0, gid: 0 });
}

interface Ownership {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

const PLAIN_DIRECTORY: Ownership = { mode: 0o755, uid: 0, gid: 0 };

const TEMPORARY = '.kiln-new';

/**
 * An existing file is replaced, never written to, because it may be an inode of the package store. Missing
 * folders are made; links on the way are followed inside the tree, and one at the end is replaced.
 * @param path absolute in the tree
 */
function writeTreeFile(
  root: number,
  path: string,
  content: Buffer | string,
  ownership: Ownership,
): void {
  using folder = closing(makeTreeDirectories(root, posix.dirname(path)));
  const name = posix.basename(path);
  if (name === '' || statAt(folder.fd, name)?.isDirectory()) {
    throw new KilnError('E_IMAGE_TREE', `${path} is a folder in the image, not a file`, {
      hint: IN_THE_WAY,
    });
  }
  if (statAt(folder.fd, TEMPORARY) !== undefined) unlinkat(folder.fd, TEMPORARY);
  using file = closing(openat2(folder.fd, TEMPORARY, NEW_FILE));
  writeFileSync(file.fd, content);
  fchownSync(file.fd, ownership.uid, ownership.gid);
  fchmodSync(file.fd, ownership.mode);
  renameat(folder.fd, TEMPORARY, folder.fd, name);
}

function changeTreeFile(root: number, path: string, change: (text: string) => string): boolean {
  using file = openInTree(root, path, constants.O_RDONLY);
  if (file === undefined) return false;
  const stat = fstatSync(file.fd);
  if (!stat.isFile()) {
    throw new KilnError('E_IMAGE_TREE', `${path} of the image is not a plain file`, {
      hint: IN_THE_WAY,
    });
  }
  const { mode, uid, gid } = stat;
  const text = change(readFileSync(file.fd, 'utf8'));
  writeTreeFile(root, path, text, { mode: mode & 0o7777, uid, gid });
  return true;
}

function makeTreeDirectories(
  root: number,
  path: string,
  ownership: Ownership = PLAIN_DIRECTORY,
): number {
  const found = openInTree(root, path, constants.O_RDONLY | constants.O_DIRECTORY);
  if (found !== undefined) return found.fd;
  using parent = closing(makeTreeDirectories(root, posix.dirname(path)));
  const name = posix.basename(path);
  try {
    mkdirat(parent.fd, name, 0o700);
    const made = openDirectory(parent.fd, name);
    fchownSync(made, ownership.uid, ownership.gid);
    fchmodSync(made, ownership.mode);
    return made;
  } catch (cause) {
    throw new KilnError('E_IMAGE_TREE', `cannot make the folder ${path} in the image`, {
      cause,
      hint: IN_THE_WAY,
    });
  }
}
