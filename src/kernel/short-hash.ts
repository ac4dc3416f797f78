/** Initial value and prime of FNV-1a with 32 bits (RFC 9923). */
const OFFSET = 0x811c9dc5;
const PRIME = 0x01000193;

/**
 * FNV-1a: eight hexadecimal digits that tell texts of our own apart. Not for what somebody else may
 * choose: two texts with the same hash are easily made. (node:crypto takes five milliseconds to load.)
 */
export function shortHash(text: string): string {
  let hash = OFFSET;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, PRIME);
  return (hash >>> 0).toString(16).padStart(8, '0');
}
