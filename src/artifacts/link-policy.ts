import type { CopiedEntry, Inventory } from './inventory.ts';
import { type ByteString, joinBytes } from './names.ts';

/** As the kernel's own limit (MAXSYMLINKS in linux/namei.h). */
const MAX_HOPS = 40;

/**
 * Whether a collected symbolic link may come out: only if it leads, through collected entries
 * alone, to a collected entry.
 *
 * Its target must be relative and have `..` only at its start, and no more of them than there are
 * real directories above it. That makes it stay inside whatever else lies in the destination: the
 * directories it climbs are real ones, and every link it then passes obeys the same rule. (With
 * `..` after a name, `a/../../x` would climb from wherever a link `a` leads.)
 */
export function staysInside(link: CopiedEntry, inventory: Inventory): boolean {
  let current = link;
  for (let hop = 0; hop < MAX_HOPS; hop += 1) {
    const target = climb(current);
    if (target === undefined) return false;
    const next = follow(target, inventory);
    if (next === undefined) return false;
    if (next.entry.type !== 'symlink') return next.rest.length === 0;
    current = relink(next.entry, next.rest);
  }
  return false;
}

interface Reached {
  /** The entry at the end, or the first link on the way. */
  readonly entry: CopiedEntry;
  /** Components still to go from that link. */
  readonly rest: readonly ByteString[];
}

/** The destination path that a link's target is, or undefined if it is not of the allowed form. */
function climb(link: CopiedEntry): readonly ByteString[] | undefined {
  const target = link.target ?? '';
  if (target === '' || target.startsWith('/')) return undefined;
  const parts = target.split('/').filter((part) => part !== '' && part !== '.');
  const above = link.path.split('/').slice(0, -1);
  const firstName = parts.findIndex((part) => part !== '..');
  const ups = firstName === -1 ? parts.length : firstName;
  if (ups > above.length || parts.indexOf('..', ups) !== -1) return undefined;
  return [...above.slice(0, above.length - ups), ...parts.slice(ups)];
}

function follow(path: readonly ByteString[], inventory: Inventory): Reached | undefined {
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

/** The link with the rest of the way appended to its target. */
function relink(link: CopiedEntry, rest: readonly ByteString[]): CopiedEntry {
  return rest.length === 0 ? link : { ...link, target: [link.target, ...rest].join('/') };
}
