import type { Libsolv } from './libsolv/libsolv.ts';
import type { Id, Pointer } from './libsolv/libsolv-types.ts';

/** pool.h's REL_GT, REL_EQ, REL_LT. */
const RELATION_FLAGS = { '>': 1, '=': 2, '<': 4 } as const;

/** The number of a dependency (`foo`, `foo >= 2`, `/path`, `(a or b)`); 0 for what is none. */
export function parseDependency(
  { pool, parseRichDependency }: Libsolv,
  address: Pointer,
  text: string,
): Id {
  if (text.startsWith('(')) return parseRichDependency(address, text);
  const match = /^(\S+)(?:\s+(<=|>=|<|>|=)\s+(\S+))?$/.exec(text.trim());
  if (match === null) return 0;
  const [, name = '', operator, version] = match;
  const id = (part: string) => pool.stringToId(address, part, 1);
  if (operator === undefined || version === undefined) return id(name);
  const flags = [...operator].reduce((sum, sign) => sum | RELATION_FLAGS[sign as '<'], 0);
  return pool.relationToId(address, id(name), id(version), flags, 1);
}
