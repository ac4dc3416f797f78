/** Image recipes that a name means: root's, then those that come with kiln. None of a working directory. */
import { existsSync, lstatSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { attempt } from '../host/calls/libc.ts';
import { isWithin } from '../host/files/user-file.ts';
import { splitArchitecture } from '../host/process/architecture.ts';
import { packageRoot } from '../host/state/package-root.ts';
import type { StatePaths } from '../host/state/paths.ts';

/** The name of this host's own /usr: no recipe and no other image is called so. */
export const HOST_IMAGE = 'host';

export interface RecipePaths {
  readonly recipes: string;
  readonly mockRecipes: string;
}

function shipped(): string {
  return join(packageRoot(), 'recipes/images');
}

/**
 * @param except a recipe that the name does not mean: one of root's may extend the one of its name that comes with kiln
 * @throws KilnError E_RECIPE_READ for one of root's that others could have written
 */
export function findRecipe(
  { recipes }: RecipePaths,
  name: string,
  except?: string,
): string | undefined {
  if (basename(name) !== name || name === HOST_IMAGE) return undefined;
  const isThere = (path: string) =>
    path !== except && statSync(path, { throwIfNoEntry: false })?.isFile();
  const roots = join(recipes, `${name}.yaml`);
  if (isThere(roots)) return asRoots(roots);
  const own = join(shipped(), `${name}.yaml`);
  return isThere(own) ? own : undefined;
}

/** The recipe that a name means, also where it would be refused; /usr for `host`. */
export function recipeOf({ recipes }: RecipePaths, name: string): string | undefined {
  if (name === HOST_IMAGE) return '/usr';
  const { name: recipe } = splitArchitecture(name);
  return [recipes, shipped()]
    .map((folder) => join(folder, `${recipe}.yaml`))
    .find((path) => existsSync(path));
}

export async function recipeNames({ recipes }: RecipePaths): Promise<string[]> {
  const folders = [recipes, shipped()];
  const lists = await Promise.all(folders.map((folder) => readdir(folder).catch(() => [])));
  const names = lists.flat().filter((name) => name.endsWith('.yaml'));
  return [...new Set(names.map((name) => name.replace(/\.yaml$/, '')))].sort();
}

/**
 * Whether a recipe is kiln's or root's own, and may name any file of the host: it comes with kiln, lies in
 * /etc/kiln/recipes, or was made of a configuration of mock's.
 */
export function isTrusted({ recipes, mockRecipes }: RecipePaths, path: string): boolean {
  const folder = dirname(path);
  if (folder === resolve(shipped()) || dirname(folder) === mockRecipes) return true;
  return folder === recipes && othersReach(path) === undefined;
}

/** Debian's and Fedora's package of public keys. */
const PUBLIC_KEYS = '/usr/share/distribution-gpg-keys';

/** What lies there is kiln's, root's or a distribution's, and meant by its name. */
export function isHosts(fixtures: string, path: string): boolean {
  return [resolve(fixtures), PUBLIC_KEYS].some((open) => isWithin(path, open));
}

/** Whether a path is a caller's, whose client opens it: not one in a folder of kiln's or of root's for recipes. */
export function isCallers(paths: StatePaths, path: string): boolean {
  const folders = [resolve(shipped()), paths.recipes, paths.mockRecipes];
  return !folders.some((folder) => isWithin(path, folder)) && !isHosts(paths.fixtures, path);
}

function asRoots(path: string): string {
  const open = othersReach(path);
  if (open === undefined) return path;
  throw new KilnError('E_RECIPE_READ', `the recipe ${path} is not used: ${open.why}`, {
    hint: open.hint,
  });
}

const STICKY = 0o1000;
const WRITABLE = 0o022;

/** Why others than root decide what lies at `path`, and how root mends it; undefined if nobody does. */
function othersReach(path: string): { readonly why: string; readonly hint: string } | undefined {
  for (let at = path; ; at = dirname(at)) {
    const { uid, mode, isLink } = look(at);
    if (isLink) return { why: `${at} is a link`, hint: 'put the file, or folder, itself there' };
    // Nobody renames or removes what is root's in a sticky folder.
    const isWritable = (mode & WRITABLE) !== 0 && (at === path || (mode & STICKY) === 0);
    if (uid !== 0 || isWritable) {
      return {
        why: `others than root can write ${at}`,
        hint: `chown root ${at}; chmod go-w ${at}`,
      };
    }
    if (at === '/') return undefined;
  }
}

function look(path: string) {
  const stats = attempt(() => lstatSync(path));
  return {
    uid: stats?.uid ?? -1,
    mode: stats?.mode ?? 0,
    isLink: stats?.isSymbolicLink() ?? false,
  };
}
