import { meetsCondition } from '../../image/transaction/plan.ts';
import type { RpmDependency } from '../../packages/rpm/package.ts';

export interface Capability {
  readonly name: string;
  readonly operator: RpmDependency['operator'];
  readonly version: string;
}

const CONDITION = /^(\S+)(?:\s+(<=|>=|<|>|=)\s+(\S+))?$/;

/** Words that join the parts of a rich dependency. Source: rpm's docs/manual/boolean_dependencies.md. */
const JOINTS = new Set(['and', 'or', 'if', 'else', 'unless', 'with', 'without']);

/**
 * Parses `foo`, `foo >= 1:2-3`. Of a rich dependency it returns every capability, because each may be wanted.
 * Malformed text gives none.
 */
export function parseCapabilities(text: string): Capability[] {
  if (text.startsWith('(')) return richCapabilities(text);
  const match = CONDITION.exec(text.trim());
  if (match === null) return [];
  const [, name = '', operator = '', version = ''] = match;
  return [{ name, operator: operator as RpmDependency['operator'], version }];
}

function richCapabilities(text: string): Capability[] {
  const parts: string[][] = [[]];
  for (const token of text.split(/\s+/)) {
    const word = trimParentheses(token);
    if (JOINTS.has(word)) parts.push([]);
    else if (word !== '') parts.at(-1)?.push(word);
  }
  return parts.flatMap((part) => (part.length === 0 ? [] : parseCapabilities(part.join(' '))));
}

function trimParentheses(token: string): string {
  let word = token.replace(/^\(+/, '');
  const hasMore = () => word.split(')').length > word.split('(').length;
  while (word.endsWith(')') && hasMore()) word = word.slice(0, -1);
  return word;
}

export function provides(provided: Capability, required: Capability): boolean {
  return meetsCondition({ ...provided, flags: 0 }, { ...required, flags: 0 });
}

export function showCapability({ name, operator, version }: Capability): string {
  return operator === '' ? name : `${name} ${operator} ${version}`;
}
