import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { StatePaths } from '../../state/paths.ts';
import { mockDirectory } from './defaults.ts';
import type { ConfigMeaning } from './recipe.ts';

/**
 * Writes the image recipe of a configuration into the state directory, where `kiln image` and
 * builds read it. Equal recipes are one file, so that an image that is current is known to be.
 * @returns its path.
 */
export async function writeRecipe(
  paths: Pick<StatePaths, 'root'>,
  { root, recipe }: Pick<ConfigMeaning, 'root' | 'recipe'>,
): Promise<string> {
  // Literal dollars: a recipe's own variables are written ${NAME}.
  const text = stringify(recipe, { lineWidth: 0 });
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 16);
  const directory = join(mockDirectory(paths), 'recipes', digest);
  const path = join(directory, `${root}.yaml`);
  if (existsSync(path)) return path;
  await mkdir(directory, { recursive: true, mode: 0o755 });
  const temporary = `${path}.${process.pid}`;
  await writeFile(temporary, text, { mode: 0o600 });
  await rename(temporary, path);
  return path;
}
