import { KilnError } from '../errors.ts';

/** One thing wrong with a recipe, and where. */
export interface RecipeProblem {
  readonly file: string;
  /** Counted from 1; 0 when the problem has no place of its own. */
  readonly line: number;
  /** Counted from 1; 0 when the problem has no place of its own. */
  readonly column: number;
  /** The key, as `files[2].mode`; empty for the document itself. */
  readonly path: string;
  readonly message: string;
  /** How to mend it. */
  readonly hint?: string;
}

const IMAGE_HINT =
  'docs/recipes.md describes every key; `kiln image schema` prints the JSON Schema for editors';

/** A recipe, or what else people write, that cannot be used: all its problems at once (`E_RECIPE`). */
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
