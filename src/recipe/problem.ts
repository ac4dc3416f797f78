import * as z from 'zod';
import type { ErrorCode } from '../error-codes.ts';
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
export const SHOWN = 50;

/** Of kinds of files that are no recipes, the codes of their errors. */
const CODES = new Map<string, { readonly code: ErrorCode }>([
  ['configuration', { code: 'E_CONFIGURATION' }],
  ['job', { code: 'E_JOB_FILE' }],
]);

/** The file is a recipe or another that people write. The code is E_RECIPE, or one of {@link CODES}. */
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
    super(
      CODES.get(kind)?.code ?? 'E_RECIPE',
      `${kind} ${file} has ${count}:\n${lines.join('\n')}`,
      {
        hint,
        details: { problems: ordered },
      },
    );
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
