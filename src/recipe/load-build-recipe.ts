import { type BuildRecipe, buildRecipeSchema, scriptRecipeSchema } from './build-recipe.ts';
import { RecipeDocument } from './document.ts';
import { RecipeError } from './problem.ts';
import { readRecipeText } from './read-text.ts';

const HINT =
  'docs/recipes.md describes every key; `kiln build --schema` prints the JSON Schema for editors';

const MISSING = 'check the path; recipes/builds has examples';

/**
 * Reads a YAML build recipe.
 * @throws RecipeError (`E_RECIPE`) with all its problems, each with line and column; KilnError
 * `E_RECIPE_READ` when the file cannot be read.
 */
export async function loadBuildRecipe(path: string): Promise<BuildRecipe> {
  const document = new RecipeDocument(path, await readRecipeText(path, MISSING));
  const value = document.value();
  const recipe = value === undefined ? undefined : document.check(buildRecipeSchema, value);
  if (recipe === undefined || document.problems.length > 0) {
    throw new RecipeError(path, document.problems, HINT);
  }
  return recipe;
}

/**
 * Checks what a TypeScript recipe exports (its functions replaced by marks).
 * @throws RecipeError (`E_RECIPE`) with all its problems; they have no line.
 */
export function checkScriptRecipe(path: string, exported: unknown): BuildRecipe {
  if (typeof exported !== 'object' || exported === null) {
    const message = 'it must have a default export: export default defineRecipe({ … })';
    throw new RecipeError(path, [{ file: path, line: 0, column: 0, path: '', message }], HINT);
  }
  const document = new RecipeDocument(path, '');
  const recipe = document.check(scriptRecipeSchema, exported);
  if (recipe !== undefined) return recipe;
  const problems = document.problems.map((problem) => ({ ...problem, line: 0, column: 0 }));
  throw new RecipeError(path, problems, HINT);
}
