import { closeSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import type { RecipeUser } from '../../recipe/image-recipe.ts';
import { type Account, type Group, readAccounts, readGroups } from './accounts.ts';
import { changeTreeFile, makeTreeDirectories, writeTreeFile } from './write.ts';

/** A recipe's file with its content in memory. */
export interface FileToWrite {
  readonly path: string;
  readonly content: Buffer;
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
}

/** What an image without packages that bring them gets: root has to be somebody. */
const FIRST_LINES: Readonly<Record<string, string>> = {
  '/etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
  '/etc/group': 'root:x:0:\n',
};

/**
 * Adds a recipe's users (with their groups and homes), then its files, to the tree whose root
 * directory is open as `root`.
 * @throws KilnError E_IMAGE_USER for ids and names that clash or do not exist; E_IMAGE_TREE.
 */
export function customizeTree(
  root: number,
  users: readonly RecipeUser[],
  files: readonly FileToWrite[],
): void {
  for (const user of users) addUser(root, user);
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
}

function addUser(root: number, user: RecipeUser): void {
  const gid = user.gid ?? user.uid;
  const home = user.home ?? `/home/${user.name}`;
  const accounts = readAccounts(root);
  const groups = readGroups(root);
  checkFree(user, accounts);
  const byId = groups.find((group) => group.gid === gid);
  if (byId === undefined) addGroup(root, user.name, gid, groups);
  append(
    root,
    '/etc/passwd',
    `${user.name}:x:${user.uid}:${gid}:${user.comment}:${home}:${user.shell}`,
  );
  // No password is right: nobody logs in, and nothing in a sandbox asks for one.
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

/** Makes the group if need be, with the next free id from 1000 on, as groupadd(8) does. */
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

/** Adds a line to a database. Without shadow files passwd is all there is. */
function append(root: number, path: string, line: string): void {
  const add = (text: string) => `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${line}\n`;
  if (changeTreeFile(root, path, add)) return;
  const first = FIRST_LINES[path];
  if (first === undefined) return;
  writeTreeFile(root, path, add(first), { mode: 0o644, uid: 0, gid: 0 });
}
