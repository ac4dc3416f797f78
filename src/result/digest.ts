import { hash } from 'node:crypto';

/**
 * A digest of a plain value that does not depend on the order of an object's keys: two plans have
 * the same one exactly if they ask for the same.
 * @returns sha256, 64 hex digits
 */
export function digestOf(value: unknown): string {
  return hash('sha256', JSON.stringify(value, sortKeys), 'hex');
}

function sortKeys(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}
