import { closeSync, constants, fstatSync, readFileSync } from 'node:fs';
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

/** Larger databases (bytes) than this are not read: they come out of a package or a scriptlet. */
const SIZE_LIMIT = 1024 * 1024;

/** The highest id that a box maps. */
const MAX_ID = 65535;

/** Who root is where an image has no /etc/passwd. */
export const ROOT_ACCOUNT: Account = {
  name: 'root',
  uid: 0,
  gid: 0,
  home: '/root',
  shell: '/bin/sh',
};

/** The users of the tree whose root directory is open as `root`; lines that are none are left out. */
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

/** The text of a file of the tree, followed inside it; undefined if there is none or it is no plain file. */
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
