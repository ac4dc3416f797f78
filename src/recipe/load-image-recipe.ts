import { realpath } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { DEFAULT_DISK } from '../host/state/disk-watch.ts';
import {
  type Repository,
  type ResolveOptions,
  resolveRepository,
} from '../packages/repository/configuration.ts';
import type { RepositoryConfiguration } from '../packages/repository/configuration-schema.ts';
import {
  expandStrings,
  expandVariables,
  RecipeDocument,
  type RecipeVariables,
  readRecipeText,
} from './document.ts';
import type { RecipeFiles } from './folder.ts';
import {
  type ImageRecipe,
  imageRecipeSchema,
  type RecipeFile,
  type RecipeUser,
} from './image-recipe.ts';
import { RecipeError } from './problem.ts';

const MISSING =
  'check the path; `kiln image ls` lists images, docs/images.md the recipes that come with kiln';

const MAX_DEPTH = 16;

export interface LoadedImageRecipe {
  readonly name: string;
  readonly sources: readonly string[];
  readonly description: string;
  readonly arch: string;
  readonly repositories: readonly Repository[];
  readonly packages: readonly string[];
  readonly groups: readonly string[];
  readonly exclude: readonly string[];
  readonly modules: ImageModules | undefined;
  readonly recommends: boolean;
  readonly files: readonly RecipeFile[];
  readonly users: readonly RecipeUser[];
  readonly environment: Readonly<Record<string, string>>;
  readonly user: string;
  /** Null for the user's home. */
  readonly workdir: string | null;
  readonly scriptlets: ScriptletPolicy;
}

export type ImageModules = NonNullable<ImageRecipe['modules']>;

export interface ScriptletPolicy {
  readonly mode: 'auto' | 'exact' | 'none';
  /** Seconds for one scriptlet. */
  readonly timeout: number;
  /** Bytes that packages may unpack to, and their scriptlets may write. */
  readonly disk: number;
}

export interface LoadOptions {
  readonly variables: Omit<RecipeVariables, 'recipe_dir'>;
  readonly arch: string;
  /** @param extending the recipe that names it */
  readonly findByName: (name: string, extending: string) => string | undefined;
  /** A user's recipe is a copy. Recipes that are found by name are kiln's. */
  readonly files?: RecipeFiles | undefined;
}

interface Part {
  readonly document: RecipeDocument;
  readonly recipe: ImageRecipe;
  readonly file: string;
  readonly files: RecipeFiles | undefined;
}

/** @throws RecipeError (`E_RECIPE`) with all problems of all files; KilnError `E_RECIPE_READ` */
export async function loadImageRecipe(
  path: string,
  options: LoadOptions,
): Promise<LoadedImageRecipe> {
  const parts = await loadChain(path, options);
  // From the outermost ancestor to the recipe itself: later ones add and override.
  const ordered = [...parts].reverse();
  const merged = merge(ordered.map((part) => part.recipe));
  const arch = merged.arch ?? options.arch;
  const repositories = new Map<string, Repository>();
  for (const { recipe, document, file, files } of ordered) {
    for (const [index, configuration] of recipe.repositories.entries()) {
      try {
        const repository = await readableRepository(configuration, files, {
          arch,
          releasever: merged.releasever,
          baseDirectory: dirname(file),
        });
        repositories.set(repository.id, repository);
      } catch (error) {
        if (!(error instanceof KilnError) || error.code === 'E_CALLER_FILE') throw error;
        document.report(['repositories', index], error.message, defined({ hint: error.hint }));
      }
    }
  }
  const main = parts[0]!;
  // What a recipe lacks may be in the one that was not found.
  const isCut = parts.some(({ document }) =>
    document.problems.some((one) => one.path === 'extends'),
  );
  if (!isCut) checkWhole(merged, repositories.size, main.document);
  checkUsers(ordered);
  for (const part of parts) checkFiles(part);
  const problems = parts.flatMap((part) => part.document.problems);
  if (problems.length > 0) throw new RecipeError(path, problems);
  const written: RecipeFile[] = [];
  for (const { recipe, file, files } of ordered) {
    for (const entry of recipe.files) written.push(await readableFile(entry, dirname(file), files));
  }
  const { packages, groups, exclude, modules, users, environment } = merged;
  return {
    name: basename(main.file).replace(/\.ya?ml$/, ''),
    sources: parts.map((part) => part.file),
    description: merged.description ?? '',
    arch,
    repositories: [...repositories.values()],
    ...{ packages, groups, exclude, modules, users, environment },
    recommends: merged.recommends ?? false,
    files: written,
    user: merged.user ?? users[0]?.name ?? 'root',
    workdir: merged.workdir ?? null,
    scriptlets: {
      mode: merged.scriptlets?.mode ?? 'auto',
      timeout: merged.scriptlets?.timeout ?? 300,
      disk: merged.disk ?? DEFAULT_DISK,
    },
  };
}

async function loadChain(path: string, options: LoadOptions): Promise<Part[]> {
  const parts: Part[] = [];
  const documents: RecipeDocument[] = [];
  let next: string | undefined = options.files?.nameOf(path) ?? path;
  let { files } = options;
  while (next !== undefined) {
    const file: string = resolve(next);
    const text = readRecipeText((await files?.file(file)) ?? file, MISSING);
    // Relative to a user's file is what the user's own kiln opens.
    const real = files === undefined ? await realpath(file) : file;
    const { document, recipe } = readPart(file, text, options);
    documents.push(document);
    if (recipe === undefined) break;
    parts.push({ document, recipe, file: real, files });
    next = undefined;
    if (recipe.extends !== undefined) {
      next = findAncestor(recipe.extends, file, document, options);
      if (isName(recipe.extends)) files = undefined;
      if (next !== undefined && documents.some((seen) => resolve(seen.file) === next)) {
        document.report(['extends'], `${recipe.extends} extends itself in the end`);
        next = undefined;
      }
      if (documents.length > MAX_DEPTH) {
        document.report(['extends'], `more than ${MAX_DEPTH} recipes extend one another`);
        next = undefined;
      }
    }
  }
  if (parts.length < documents.length) {
    const problems = documents.flatMap((document) => document.problems);
    throw new RecipeError(path, problems);
  }
  return parts;
}

function isName(text: string): boolean {
  return !text.includes('/') && !/\.ya?ml$/.test(text);
}

function findAncestor(
  name: string,
  file: string,
  document: RecipeDocument,
  options: LoadOptions,
): string | undefined {
  if (isAbsolute(name)) return name;
  if (!isName(name)) return join(dirname(file), name);
  const found = options.findByName(name, file);
  if (found === undefined) {
    document.report(['extends'], `there is no image recipe called ${name}`, {
      hint: 'name a recipe that comes with kiln, one of /etc/kiln/recipes, or a path',
    });
  }
  return found;
}

function readPart(
  file: string,
  text: string,
  options: LoadOptions,
): { document: RecipeDocument; recipe: ImageRecipe | undefined } {
  const document = new RecipeDocument(file, text);
  const value = document.value();
  if (value === undefined) return { document, recipe: undefined };
  const variables = { ...options.variables, recipe_dir: dirname(file) };
  const expanded = expandStrings(value, [], (text, at) =>
    expandVariables(text, variables, (name, hint) =>
      document.report(at, `unknown variable $${name}`, { hint }),
    ),
  );
  return { document, recipe: document.check(imageRecipeSchema, expanded) };
}

/** Joins lists, merges maps; of single values the last one counts. */
function merge(recipes: readonly ImageRecipe[]): ImageRecipe {
  const lists = {
    packages: recipes.flatMap((recipe) => recipe.packages),
    groups: recipes.flatMap((recipe) => recipe.groups),
    exclude: recipes.flatMap((recipe) => recipe.exclude),
    users: recipes.flatMap((recipe) => recipe.users),
  };
  const maps = {
    environment: Object.assign({}, ...recipes.map((recipe) => recipe.environment)),
    scriptlets: Object.assign({}, ...recipes.map((recipe) => recipe.scriptlets ?? {})),
  };
  return Object.assign({}, ...recipes, lists, maps, mergeModules(recipes));
}

function mergeModules(recipes: readonly ImageRecipe[]): Pick<ImageRecipe, 'modules'> {
  const all = recipes.flatMap(({ modules = [] }) => modules);
  if (all.length === 0) return {};
  const modules = {
    ...Object.assign({}, ...all),
    enable: all.flatMap(({ enable }) => enable),
    disable: all.flatMap(({ disable }) => disable),
    install: all.flatMap(({ install }) => install),
    obsoletes: all.some(({ obsoletes }) => obsoletes),
  };
  return { modules };
}

function checkWhole(recipe: ImageRecipe, repositories: number, document: RecipeDocument): void {
  if (recipe.packages.length + recipe.groups.length === 0) {
    document.report(['packages'], 'no package and no group is named', {
      hint: 'add `packages: [bash]`, or `extends: debian-build`',
    });
  }
  if (repositories === 0 && document.problems.length === 0) {
    document.report(['repositories'], 'no repository is named', {
      hint: 'docs/recipes.md shows how one is written',
    });
  }
}

function checkUsers(parts: readonly Part[]): void {
  for (const what of ['name', 'uid'] as const) {
    const seen = new Set<string | number>();
    for (const { recipe, document } of parts) {
      for (const [index, user] of recipe.users.entries()) {
        const value = user[what];
        if (seen.has(value)) document.report(['users', index, what], `${value} is used twice`);
        seen.add(value);
      }
    }
  }
}

/** What a recipe extends may have a file that this one has otherwise. */
function checkFiles({ recipe: { files }, document }: Part): void {
  const paths = files.map(({ path }) => path);
  for (const [index, path] of paths.entries()) {
    if (paths.indexOf(path) === index) continue;
    document.report(['files', index, 'path'], `${path} is written twice`);
  }
}

async function readableFile(
  file: RecipeFile,
  directory: string,
  files: RecipeFiles | undefined,
): Promise<RecipeFile> {
  if (file.source === undefined) return file;
  const source = resolve(directory, file.source);
  return { ...file, source: (await files?.file(source)) ?? source };
}

async function readableRepository(
  configuration: RepositoryConfiguration,
  files: RecipeFiles | undefined,
  options: ResolveOptions,
): Promise<Repository> {
  if (files === undefined) return resolveRepository(configuration, options);
  const named = new Map<string, 'file' | 'folder'>();
  resolveRepository(configuration, {
    ...options,
    place: (path, kind) => {
      named.set(path, kind);
      return path;
    },
  });
  const copies = new Map<string, string>();
  for (const [path, kind] of named)
    copies.set(path, await (kind === 'file' ? files.file(path) : files.tree(path, 'inside')));
  return resolveRepository(configuration, { ...options, place: (path) => copies.get(path) ?? '' });
}
