/** Initial value and prime of FNV-1a with 32 bits (RFC 9923). */
const OFFSET = 0x811c9dc5;
const PRIME = 0x01000193;

/**
 * FNV-1a: eight hexadecimal digits, for kiln's own texts. Not for text that others choose: two with the same
 * hash are easily made. (node:crypto takes five milliseconds to load.)
 * Inputs that differ in one byte never have the same hash, because each step can be inverted. A megabyte takes
 * a millisecond.
 */
export function shortHash(content: string | Uint8Array): string {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  let hash = OFFSET;
  for (let at = 0; at < bytes.length; at++) hash = Math.imul(hash ^ (bytes[at] as number), PRIME);
  return (hash >>> 0).toString(16).padStart(8, '0');
}
