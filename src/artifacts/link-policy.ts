import { type ByteString, joinBytes } from './byte-string.ts';
import type { CopiedEntry, Inventory } from './manifest.ts';

/** As the kernel's own limit (MAXSYMLINKS in linux/namei.h). */
const MAX_HOPS = 40;

const ABSOLUTE = 'which is absolute';
const BEHIND_A_NAME = 'where `..` stands behind a name';
const ABOVE = 'which leads above the artifacts';
const NOWHERE = 'which leads to nothing that is collected';

/**
 * Why a collected symbolic link may not come out; undefined if it may. It may only if it leads, through collected
 * entries, to a collected entry.
 *
 * Its target must be relative and have `..` only at its start, and no more of them than there are real directories
 * above it. So it stays inside whatever else lies in the destination: the directories it climbs are real, and every
 * link it then passes obeys the same rule. (`a/../../x` would climb from wherever a link `a` leads.)
 */
export function whyLeftOut(link: CopiedEntry, inventory: Inventory): string | undefined {
  let current = link;
  for (let hop = 0; hop < MAX_HOPS; hop += 1) {
    const target = climb(current);
    // Of a link that it passes: the target which is shown is not that one's.
    if (typeof target === 'string') return hop === 0 ? target : NOWHERE;
    const next = follow(target, inventory);
    if (next === undefined) return NOWHERE;
    const { entry, rest } = next;
    if (entry.type !== 'symlink') return rest.length === 0 ? undefined : NOWHERE;
    if (rest.length > 0) current = { ...entry, target: [entry.target, ...rest].join('/') };
    else current = entry;
  }
  return NOWHERE;
}

/** The path that a link's target means, or why it may mean none. */
function climb(link: CopiedEntry): readonly ByteString[] | string {
  const target = link.target ?? '';
  if (target === '') return NOWHERE;
  if (target.startsWith('/')) return ABSOLUTE;
  const parts = target.split('/').filter((part) => part !== '' && part !== '.');
  const above = link.path.split('/').slice(0, -1);
  const firstName = parts.findIndex((part) => part !== '..');
  const ups = firstName === -1 ? parts.length : firstName;
  if (parts.indexOf('..', ups) !== -1) return BEHIND_A_NAME;
  if (ups > above.length) return ABOVE;
  return [...above.slice(0, above.length - ups), ...parts.slice(ups)];
}

function follow(path: readonly ByteString[], inventory: Inventory) {
  let entry: CopiedEntry | undefined;
  let at: ByteString = '';
  for (const [index, part] of path.entries()) {
    at = joinBytes(at, part);
    entry = inventory.get(at);
    if (entry === undefined) return undefined;
    if (entry.type === 'symlink') return { entry, rest: path.slice(index + 1) };
    if (entry.type === 'file' && index < path.length - 1) return undefined;
  }
  return entry === undefined ? undefined : { entry, rest: [] };
}
