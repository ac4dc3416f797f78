import type { TreeEntry } from './tree-entries.ts';

/** What happens to one path of /etc in an upgrade. */
export type MergeAction =
  /** The new image's. */
  | { readonly do: 'take'; readonly path: string }
  /** It is gone from the image, and nobody had changed it. */
  | { readonly do: 'remove'; readonly path: string }
  /** The service's stays; the new image's lies beside it as .rpmnew. */
  | { readonly do: 'rpmnew'; readonly path: string }
  /** The new image's takes its place; the service's lies beside it as .rpmsave. */
  | { readonly do: 'rpmsave'; readonly path: string }
  /** A database of accounts: new names of the image's are added. */
  | { readonly do: 'accounts'; readonly path: string };

/** Merged line by line, for whoever adds an account changes the whole file. */
const ACCOUNTS = new Set(['passwd', 'group', 'shadow', 'gshadow', 'subuid', 'subgid']);

/** What each service has of its own from the beginning. */
const OWN = new Set(['machine-id', 'hostname', 'hosts', 'resolv.conf', 'mtab']);

/**
 * Compares three trees of /etc as rpm compares a changed configuration file: `base`, the image's
 * that the service was made of; `mine`, the service's; `theirs`, the new image's. `replaced` are
 * %config files without noreplace, which rpm puts in place whatever the change.
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
      // Somebody gave it another owner or mode: theirs to keep.
    } else if (replaced.has(path)) actions.push({ do: 'rpmsave', path });
    else actions.push({ do: 'rpmnew', path });
  }
  return actions;
}

/**
 * A database of accounts with the lines of `theirs` whose name `mine` does not have. Lines are
 * NAME:…; the service's own come first and stay as they are.
 */
export function mergeAccounts(mine: string, theirs: string): string {
  const nameOf = (line: string) => line.slice(0, line.indexOf(':'));
  const lines = mine.split('\n').filter((line) => line !== '');
  const names = new Set(lines.map(nameOf));
  const added = theirs.split('\n').filter((line) => line !== '' && !names.has(nameOf(line)));
  return [...lines, ...added].map((line) => `${line}\n`).join('');
}
