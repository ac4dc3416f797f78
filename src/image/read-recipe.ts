/** Image recipes as they are read for making images; what one says is remembered while its files stay the same. */
import { createHash } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import { readRecipeText } from '../recipe/read-text.ts';
import type { Engine } from '../sandbox/open.ts';
import { SmallCache } from '../state/small-cache.ts';
import { hostArchitecture } from './architecture.ts';
import { findRecipe } from './find.ts';

/** What a recipe says, and all that has a part in that. */
interface KnownRecipe {
  /** Each as it was asked for, where that led to, and the digest of its text. */
  readonly files: readonly {
    readonly path: string;
    readonly real: string;
    readonly text: string;
  }[];
  /** Recipes that were found by name. */
  readonly names: readonly { readonly name: string; readonly path: string }[];
  readonly recipe: LoadedImageRecipe;
}

/** The file this code is in. */
const CODE = import.meta.url;

/** What a bundle's name ends with if it has a digest of its code, and so of the names of all that it loads. */
const DIGEST_IN_NAME = /-[\w-]{8}\.cjs$/;

/** As many recipes, with as many sets of variables, as somebody may be busy with. */
const KEPT = 200;

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
  const arch = hostArchitecture();
  const question = JSON.stringify([CODE, resolve(path), cwd, variables, arch]);
  const cache = new SmallCache(join(paths.cache, 'recipes'), KEPT);
  const name = `${digest(question)}.json`;
  const known = await stillSaid(await cache.read(name), cwd);
  if (known !== undefined) return known;
  const files: KnownRecipe['files'][number][] = [];
  const names: KnownRecipe['names'][number][] = [];
  // With it come YAML and schemas, which take longer to load than the rest.
  const { loadImageRecipe } = await import('../recipe/load-image-recipe.ts');
  const recipe = await loadImageRecipe(path, {
    variables,
    arch,
    findByName: async (name) => {
      const found = findRecipe(name, cwd);
      if (found !== undefined) names.push({ name, path: found });
      return found;
    },
    onRead: (of, real, text) => files.push({ path: of, real, text: digest(text) }),
  });
  // Other code changes without changing its name.
  if (DIGEST_IN_NAME.test(CODE)) {
    await cache.write(name, JSON.stringify({ files, names, recipe } satisfies KnownRecipe));
  }
  return recipe;
}

/** What a recipe was found to say, unless any of its files says something else now. */
async function stillSaid(
  remembered: string | undefined,
  cwd: string,
): Promise<LoadedImageRecipe | undefined> {
  if (remembered === undefined) return;
  try {
    const { files, names, recipe } = JSON.parse(remembered) as KnownRecipe;
    for (const { path, real, text } of files) {
      if (realpathSync(path) !== real || digest(await readRecipeText(path, '')) !== text) return;
    }
    return names.every(({ name, path }) => findRecipe(name, cwd) === path) ? recipe : undefined;
  } catch {
    // Whatever is wrong shows when it is read.
    return;
  }
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
