import * as z from 'zod';
import { KilnError } from '../errors.ts';

export interface RecipeProblem {
  readonly file: string;
  /** Counted from 1; 0 if the problem has no place. */
  readonly line: number;
  readonly column: number;
  readonly path: string;
  readonly message: string;
  readonly hint?: string;
}

const IMAGE_HINT =
  'docs/recipes.md describes every key; `kiln image schema` prints the JSON Schema for editors';

/** Of broken YAML each character can be one. */
const SHOWN = 50;

/** The file is a recipe or another that people write. The code is E_RECIPE. */
export class RecipeError extends KilnError {
  readonly problems: readonly RecipeProblem[];

  constructor(
    file: string,
    problems: readonly RecipeProblem[],
    hint: string = IMAGE_HINT,
    kind = 'recipe',
  ) {
    const count = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
    const ordered = [...problems].sort((a, b) => (a.file === b.file ? a.line - b.line : 0));
    const lines = ordered.slice(0, SHOWN).map((problem) => `  ${formatProblem(problem)}`);
    if (ordered.length > SHOWN) lines.push(`  and ${ordered.length - SHOWN} more`);
    super('E_RECIPE', `${kind} ${file} has ${count}:\n${lines.join('\n')}`, {
      hint,
      details: { problems: ordered },
    });
    this.problems = ordered;
  }
}

/** `file:line:column: path: message (hint)`, which editors and CI systems link. */
function formatProblem(problem: RecipeProblem): string {
  const place = problem.line === 0 ? '' : `:${problem.line}:${problem.column}`;
  const path = problem.path === '' ? '' : `${problem.path}: `;
  const hint = problem.hint === undefined ? '' : ` (${problem.hint})`;
  return `${problem.file}${place}: ${path}${problem.message}${hint}`;
}

/** Undefined if none is similar: at most a third of the length may differ, ignoring case. */
export function suggest(word: string, candidates: Iterable<string>): string | undefined {
  const wanted = word.toLowerCase();
  let best: string | undefined;
  let limit = Math.max(1, Math.floor(wanted.length / 3));
  for (const candidate of candidates) {
    const distance = editDistance(wanted, candidate.toLowerCase(), limit);
    if (distance <= limit) {
      best = candidate;
      limit = distance - 1;
    }
  }
  return best;
}

/** A hint for a name that is unknown: a similar one, or else `otherwise`. */
export function suggestion(word: string, known: Iterable<string>, otherwise: string): string {
  const near = suggest(word, known);
  return near === undefined ? otherwise : `did you mean ${near}?`;
}

/** The keys that a schema knows at `path`; empty if it accepts any. Looks through wrappers and unions. */
export function knownKeys(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  for (const wrapper of [z.ZodOptional, z.ZodDefault, z.ZodPrefault]) {
    if (schema instanceof wrapper) return knownKeys(schema.unwrap(), path);
  }
  if (schema instanceof z.ZodPipe) return knownKeys(schema.in, path);
  if (schema instanceof z.ZodUnion) {
    return schema.options.flatMap((option: z.core.$ZodType) => knownKeys(option, path));
  }
  const [key, ...rest] = path;
  if (schema instanceof z.ZodObject) {
    const shape: Record<string, z.core.$ZodType> = schema.shape;
    if (key === undefined) return Object.keys(shape);
    const next = shape[String(key)];
    return next === undefined ? [] : knownKeys(next, rest);
  }
  if (key === undefined) return [];
  if (schema instanceof z.ZodArray) return knownKeys(schema.element, rest);
  if (schema instanceof z.ZodRecord) return knownKeys(schema.valueType, rest);
  return [];
}

/**
 * How many letters must be added, dropped, changed or swapped with their neighbour to make `b` of
 * `a` (the restricted Damerau-Levenshtein distance); more than `limit` is told as `limit + 1`.
 */
export function editDistance(a: string, b: string, limit: number): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, before[j - 2]! + 1);
      }
      row.push(cost);
    }
    if (Math.min(...row) > limit) return limit + 1;
    before = last;
    last = row;
  }
  return Math.min(last[b.length]!, limit + 1);
}
