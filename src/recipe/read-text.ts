import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { KilnError } from '../errors.ts';

/** A recipe is written by hand: anything larger than this (bytes) is something else. */
export const RECIPE_SIZE_LIMIT = 1024 * 1024;

/** The text of a recipe. Throws E_RECIPE_READ; `hint` says where recipes are. */
export async function readRecipeText(file: string, hint: string): Promise<string> {
  try {
    // O_NONBLOCK: a fifo that somebody put there must not hang us.
    await using handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const { size } = await handle.stat();
    if (size > RECIPE_SIZE_LIMIT) throw new Error(`it is larger than ${RECIPE_SIZE_LIMIT} bytes`);
    return await handle.readFile('utf8');
  } catch (cause) {
    throw new KilnError('E_RECIPE_READ', `cannot read the recipe ${file}`, { cause, hint });
  }
}
