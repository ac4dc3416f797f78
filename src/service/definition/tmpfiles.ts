import { readAccounts, readGroups } from '../../image/tree/accounts.ts';
import type { SandboxDirectory } from '../../sandbox/command/control.ts';
import type { Tree } from '../lifecycle/tree.ts';
import { splitWords } from '../unit/unit-file.ts';

/** The first file of a name counts (tmpfiles.d(5)). */
const FOLDERS = ['/etc/tmpfiles.d', '/run/tmpfiles.d', '/usr/lib/tmpfiles.d'];

/** Types that make a directory; `e` only changes an existing one. */
const DIRECTORY_TYPES = new Set(['d', 'D', 'v', 'q', 'Q']);

/** File systems of the sandbox that are empty when it starts. */
const VOLATILE = /^\/(?:run|tmp|var\/tmp)\//;

/** Directories of a booted systemd: they mean nothing for a service without one. */
const SYSTEMD = /^\/run\/(?:systemd|credstore|log|user|nologin|shm)/;

/** More than any image has. The tree may be hostile, so the number is bounded. */
const DIRECTORIES_MAX = 1000;

/** The entries of tmpfiles.d in the sandbox's empty file systems. */
export interface TmpfilesPlan {
  readonly directories: readonly SandboxDirectory[];
  /** Lines for those file systems that kiln does not obey. */
  readonly undone: readonly string[];
}

/** Reads the tmpfiles.d of a tree: /run is empty at every start, and services expect directories there. */
export function tmpfilesPlan(tree: Tree): TmpfilesPlan {
  const directories = new Map<string, SandboxDirectory>();
  const undone: string[] = [];
  const accounts = readAccounts(tree.root);
  const groups = readGroups(tree.root);
  for (const { file, line } of configurationLines(tree)) {
    const [type = '', rawPath = '', mode = '-', user = '-', group = '-'] = (
      splitWords(line) ?? []
    ).map((word) => word.text);
    const path = rawPath.replace(/^\/var\/run\//, '/run/').replace(/\/+$/, '');
    if (
      !VOLATILE.test(path) ||
      SYSTEMD.test(path) ||
      path.includes('%') ||
      path.split('/').includes('..')
    )
      continue;
    const kind = type.replace(/[!+=~^$-]/g, '');
    if (!DIRECTORY_TYPES.has(kind)) {
      if (!'rRxX'.includes(kind)) undone.push(`${file}: ${line}`);
      continue;
    }
    if (directories.has(path) || directories.size === DIRECTORIES_MAX) continue;
    const uid = idOf(user, accounts.find(({ name }) => name === user)?.uid);
    const gid = idOf(group, groups.find(({ name }) => name === group)?.gid);
    const bits = Number.parseInt(mode.replace(/^[~:]+/, ''), 8);
    if (uid === undefined || gid === undefined) undone.push(`${file}: ${line}`);
    else
      directories.set(path, { path, mode: Number.isNaN(bits) ? 0o755 : bits & 0o7777, uid, gid });
  }
  const sorted = [...directories.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  return { directories: sorted, undone };
}

function idOf(text: string, named: number | undefined): number | undefined {
  if (text === '-' || text === '') return 0;
  return named ?? (/^\d{1,5}$/.test(text) ? Number(text) : undefined);
}

function* configurationLines(tree: Tree): Generator<{ file: string; line: string }> {
  const files = new Map<string, string>();
  for (const folder of FOLDERS) {
    for (const name of tree.list(folder)) {
      if (name.endsWith('.conf') && !files.has(name)) files.set(name, `${folder}/${name}`);
    }
  }
  for (const [, file] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (const line of configuredLines(tree, file)) yield { file, line };
  }
}

/** The lines of a file of tmpfiles.d or sysusers.d without comments and empty lines. */
export function configuredLines(tree: Tree, file: string): string[] {
  const lines = (tree.readText(file) ?? '').split('\n').map((line) => line.trim());
  return lines.filter((line) => line !== '' && !line.startsWith('#'));
}
