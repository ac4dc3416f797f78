import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, readdir, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { writeWholeSync } from '../../../host/state/checked-file.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { mockDirectory } from './defaults.ts';
import type { ConfigMeaning } from './recipe.ts';

/**
 * Writes a configuration's image recipe into the state directory, where `kiln image` and builds read it. Equal
 * recipes share a file, so that a current image is recognised. @returns its path.
 */
export async function writeRecipe(
  paths: Pick<StatePaths, 'root'>,
  { root, recipe }: Pick<ConfigMeaning, 'root' | 'recipe'>,
): Promise<string> {
  // JSON is valid YAML.
  const text = JSON.stringify(recipe, undefined, 2);
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 16);
  const directory = join(recipesDirectory(paths), digest);
  const path = join(directory, `${root}.yaml`);
  // The folder is named by the content.
  if (readText(path) === text) {
    // When it was last used; the file's own time says whether its image is current.
    const now = new Date();
    await utimes(directory, now, now);
    return path;
  }
  await mkdir(directory, { recursive: true, mode: 0o755 });
  writeWholeSync(path, text);
  return path;
}

/** Undefined where there is none that can be read. */
function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function recipesDirectory(paths: Pick<StatePaths, 'root'>): string {
  return join(mockDirectory(paths), 'recipes');
}

/** Removes recipes that no call has used for `maxAge` milliseconds. */
export async function pruneRecipes(paths: Pick<StatePaths, 'root'>, maxAge: number): Promise<void> {
  const directory = recipesDirectory(paths);
  for (const name of await readdir(directory).catch(() => [])) {
    const used = await stat(join(directory, name)).catch(() => undefined);
    if (used === undefined || Date.now() - used.mtimeMs < maxAge) continue;
    await removeTree(join(directory, name));
  }
}
