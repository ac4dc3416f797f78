import * as z from 'zod';
import { editDistance } from '../edit-distance.ts';
import { KilnError } from '../errors.ts';

/** A problem of a recipe with its place. */
export interface RecipeProblem {
  readonly file: string;
  /** Counted from 1; 0 if the problem has no place. */
  readonly line: number;
  /** Counted from 1; 0 if the problem has no place. */
  readonly column: number;
  /** The key, as `files[2].mode`; empty for the document itself. */
  readonly path: string;
  readonly message: string;
  /** How to fix it. */
  readonly hint?: string;
}

const IMAGE_HINT =
  'docs/recipes.md describes every key; `kiln image schema` prints the JSON Schema for editors';

/** The error for a recipe, or another file that people write, with all its problems (`E_RECIPE`). */
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
    const lines = ordered.map((problem) => `  ${formatProblem(problem)}`);
    super('E_RECIPE', `${kind} ${file} has ${count}:\n${lines.join('\n')}`, {
      hint,
      details: { problems: ordered },
    });
    this.problems = ordered;
  }
}

/** `file:line:column: path: message (hint)`, the form editors and CI systems link. */
function formatProblem(problem: RecipeProblem): string {
  const place = problem.line === 0 ? '' : `:${problem.line}:${problem.column}`;
  const path = problem.path === '' ? '' : `${problem.path}: `;
  const hint = problem.hint === undefined ? '' : ` (${problem.hint})`;
  return `${problem.file}${place}: ${path}${problem.message}${hint}`;
}

/** A key's place in a document as people write it: `files[2].mode`. */
export function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

/**
 * The candidate that a person most likely meant by `word`; undefined if none is similar. Similar means that at
 * most a third of the length differs, ignoring case (see {@link editDistance}).
 */
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

/**
 * The keys that a schema knows at `path`, for "did you mean"; empty if it accepts any key. Looks through
 * optional, default and pipe wrappers, and at every branch of a union.
 */
export function knownKeys(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault) {
    return knownKeys(schema.unwrap(), path);
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
