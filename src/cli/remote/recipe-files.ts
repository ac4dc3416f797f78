/** The files that a recipe in YAML names beside itself. */
import { isAbsolute, normalize } from 'node:path';
import { RecipeDocument, readRecipeText } from '../../recipe/document.ts';
import { refused } from './ways.ts';

const HINT = 'name a recipe by the path of its file';

/** Their paths, relative to the recipe's folder. Whoever runs the recipe says what else is wrong with it. */
export async function recipeFiles(recipe: string): Promise<readonly string[]> {
  const value = new RecipeDocument(recipe, await readRecipeText(recipe, HINT)).value();
  if (typeof value !== 'object' || value === null) return [];
  const { sources, image } = value as { readonly sources?: unknown; readonly image?: unknown };
  const named = Array.isArray(sources)
    ? sources.map((source: unknown) => (source as { readonly file?: unknown } | null)?.file)
    : [];
  const files = [
    ...named,
    typeof image === 'string' && /\.(?:ya?ml|json)$/.test(image) ? image : undefined,
  ];
  return files
    .filter((file) => typeof file === 'string')
    .map((file) => {
      const path = normalize(file);
      if (isAbsolute(path) || path.startsWith('..')) {
        throw refused(
          `${file}, which ${recipe} names,`,
          'what a recipe names travels from its own folder',
        );
      }
      return path;
    });
}
