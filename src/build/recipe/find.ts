import { statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import { suggest } from '../../recipe/suggest.ts';
import { packageRoot } from '../../state/package-root.ts';

/** What a recipe's file name ends in; a script first, where both lie side by side. */
const ENDINGS = ['.ts', '.mts', '.js', '.mjs', '.yaml', '.yml'] as const;
const SCRIPT = /\.m?[tj]s$/;

/** Is this file name one of a recipe, and not of a source package or a spec? */
function isRecipeName(name: string): boolean {
  return ENDINGS.some((ending) => name.endsWith(ending));
}

/** Is the recipe at `path` a program, and not YAML? */
export function isScript(path: string): boolean {
  return SCRIPT.test(path);
}

/**
 * The recipe that `name` means, absolute: a path, or a recipe's name in ./recipes/builds or among
 * kiln's own.
 * @throws KilnError E_RECIPE_MISSING
 */
export async function findBuildRecipe(name: string, cwd: string): Promise<string> {
  const folders = [join(cwd, 'recipes', 'builds'), join(packageRoot(), 'recipes', 'builds')];
  const candidates = isRecipeName(name)
    ? [resolve(cwd, name)]
    : basename(name) === name
      ? folders.flatMap((folder) => ENDINGS.map((ending) => join(folder, name + ending)))
      : [];
  const found = candidates.find((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
  if (found !== undefined) return found;
  const known = await recipeNames(folders);
  const near = suggest(name, known);
  throw new KilnError('E_RECIPE_MISSING', `there is no build recipe ${name}`, {
    hint:
      near === undefined
        ? `give the path of a .ts or .yaml file, or one of: ${known.join(', ')}`
        : `did you mean ${near}?`,
  });
}

async function recipeNames(folders: readonly string[]): Promise<string[]> {
  const lists = await Promise.all(folders.map((folder) => readdir(folder).catch(() => [])));
  const names = lists.flat().filter(isRecipeName);
  return [...new Set(names.map((name) => name.replace(/\.[a-z]+$/, '')))].sort();
}
