import { KilnError } from '../errors.ts';
import { readUserFile } from '../kernel/user-file.ts';

/** A recipe is written by hand: anything larger than this (bytes) is something else. */
export const RECIPE_SIZE_LIMIT = 1024 * 1024;

/** The text of a recipe. Throws E_RECIPE_READ; `hint` says where recipes are. */
export async function readRecipeText(file: string, hint: string): Promise<string> {
  try {
    return readUserFile(file, RECIPE_SIZE_LIMIT).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_RECIPE_READ', `cannot read the recipe ${file}`, { cause, hint });
  }
}
