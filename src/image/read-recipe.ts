/** Image recipes as they are read for making images. */
import { type LoadedImageRecipe, loadImageRecipe } from '../recipe/load-image-recipe.ts';
import type { Engine } from '../sandbox/open.ts';
import { hostArchitecture } from './architecture.ts';
import { findRecipe } from './find.ts';

/** Where a recipe is read: `cwd` is where names of other recipes are looked for. */
export type RecipePlace = Pick<Engine, 'paths' | 'cwd'>;

/**
 * Reads an image recipe with the variables that recipes may use.
 * @throws RecipeError, E_RECIPE_READ
 */
export async function readRecipe(place: RecipePlace, path: string): Promise<LoadedImageRecipe> {
  const { paths } = place;
  const cwd = place.cwd();
  const variables = {
    KILN_STATE: paths.root,
    KILN_FIXTURES: paths.fixtures,
  };
  const findByName = async (name: string) => findRecipe(name, cwd);
  return await loadImageRecipe(path, { variables, arch: hostArchitecture(), findByName });
}
