import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { withArchitecture } from '../host/process/architecture.ts';
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
import { anywhere, inFolder, inRealFolder, type RecipeReach } from './reach.ts';

const MISSING =
  'check the path; `kiln image ls` lists images, docs/images.md the recipes that come with kiln';

const MAX_DEPTH = 16;

/** What is no mistake in a recipe, but has its own error. */
const NOT_OF_RECIPE: readonly string[] = ['E_CALLER_FILE', 'E_HOST_NOT_ALLOWED'];

export interface LoadedImageRecipe {
  readonly name: string;
  /** Which of root's recipes, this one or what it extends, log in somewhere. */
  readonly loggingIn: readonly string[];
  readonly sources: readonly string[];
  readonly description: string;
  readonly arch: string;
  readonly repositories: readonly Repository[];
  readonly packages: readonly string[];
  readonly groups: readonly string[];
  readonly exclude: readonly string[];
  readonly modules: ImageModules | undefined;
  readonly recommends: boolean;
  readonly files: readonly LoadedFile[];
  readonly folders: readonly string[];
  readonly users: readonly RecipeUser[];
  readonly environment: Readonly<Record<string, string>>;
  readonly user: string;
  /** Null for the user's home. */
  readonly workdir: string | null;
  readonly scriptlets: ScriptletPolicy;
  /** Whether its machines boot the kernel of its packages. */
  readonly kernel: boolean;
}

interface LoadedFile extends RecipeFile {
  /** A folder out of which no link leads to the source: openWithin() takes it. */
  readonly below?: string | undefined;
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
  /** The folder is each recipe's own. */
  readonly variables: Omit<RecipeVariables, 'recipe_dir'>;
  /** This machine's. */
  readonly arch: string;
  /** The one that the caller asks for; a recipe that says one is for that alone. */
  readonly wanted?: string | undefined;
  /** @param extending the recipe that names it */
  readonly findByName: (name: string, extending: string) => string | undefined;
  /** A user's recipe is a copy. */
  readonly files?: RecipeFiles | undefined;
  /** As anywhere() takes it. */
  readonly holdName?: ((path: string) => Promise<void>) | undefined;
  /** Kiln's recipes and root's, and those that the caller trusts, may name any file of the host. */
  readonly isTrusted: (path: string) => boolean;
}

interface Part {
  readonly document: RecipeDocument;
  readonly recipe: ImageRecipe;
  readonly file: string;
  readonly reach: RecipeReach;
  /** Not a user's: this one is root's or kiln's, or what it extends by a name. */
  readonly isNamed: boolean;
}

function nameOf(file: string): string {
  return basename(file).replace(/\.ya?ml$/, '');
}

/** @throws RecipeError (`E_RECIPE`) with all problems of all files; KilnError `E_RECIPE_READ`, `E_HOST_NOT_ALLOWED` */
export async function loadImageRecipe(
  path: string,
  options: LoadOptions,
): Promise<LoadedImageRecipe> {
  const parts = await loadChain(path, options);
  // From the outermost ancestor to the recipe itself: later ones add and override.
  const ordered = [...parts].reverse();
  const merged = merge(ordered.map((part) => part.recipe));
  const { wanted } = options;
  const arch = wanted ?? merged.arch ?? options.arch;
  const repositories = new Map<string, Repository>();
  const loggingIn: string[] = [];
  for (const { recipe, document, file, reach, isNamed } of ordered) {
    for (const [index, configuration] of recipe.repositories.entries()) {
      try {
        const repository = await readableRepository(configuration, reach, {
          arch,
          releasever: merged.releasever,
          baseDirectory: dirname(file),
        });
        repositories.set(repository.id, repository);
        if (repository.access !== undefined && isNamed) loggingIn.push(nameOf(file));
      } catch (error) {
        if (!(error instanceof KilnError) || NOT_OF_RECIPE.includes(error.code)) throw error;
        document.report(['repositories', index], error.message, defined({ hint: error.hint }));
      }
    }
  }
  const main = parts[0]!;
  if (wanted !== undefined && (merged.arch ?? wanted) !== wanted) {
    main.document.report(['arch'], `the recipe is for ${merged.arch}, not for ${wanted}`, {
      hint: 'leave out --arch, or `arch` in the recipe',
    });
  }
  // What a recipe lacks may be in the one that was not found.
  const isCut = parts.some(({ document }) =>
    document.problems.some((one) => one.path === 'extends'),
  );
  if (!isCut) checkWhole(merged, repositories.size, main.document);
  checkUsers(ordered);
  for (const part of parts) checkFiles(part);
  const problems = parts.flatMap((part) => part.document.problems);
  if (problems.length > 0) throw new RecipeError(path, problems);
  const written: LoadedFile[] = [];
  for (const { recipe, file, reach } of ordered) {
    for (const entry of recipe.files) written.push(await readableFile(entry, dirname(file), reach));
  }
  const { packages, groups, exclude, modules, folders, users, environment } = merged;
  return {
    name: withArchitecture(nameOf(main.file), wanted),
    loggingIn,
    sources: parts.map((part) => part.file),
    description: merged.description ?? '',
    arch,
    repositories: [...repositories.values()],
    ...{ packages, groups, exclude, modules, folders, users, environment },
    recommends: merged.recommends ?? false,
    files: written,
    user: merged.user ?? users[0]?.name ?? 'root',
    workdir: merged.workdir ?? null,
    kernel: merged.kernel ?? false,
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
  const main = options.files?.nameOf(path) ?? inRealFolder(path);
  let next: string | undefined = main;
  let reach = reachOf(path, main, options);
  let isNamed = options.files === undefined;
  while (next !== undefined) {
    const file: string = resolve(next);
    const isCopied = file === main && options.files !== undefined;
    const readable = isCopied ? path : await reach.place(file, 'file');
    const text = readRecipeText(readable, MISSING, reach.below);
    const { document, recipe } = readPart(file, text, options);
    documents.push(document);
    if (recipe === undefined) break;
    parts.push({ document, recipe, file, reach, isNamed });
    next = undefined;
    if (recipe.extends !== undefined) {
      next = findAncestor(recipe.extends, file, document, options);
      // A name means a recipe of root's or kiln's.
      if (isName(recipe.extends)) {
        reach = anywhere(undefined);
        isNamed = true;
      }
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
    folders: recipes.flatMap((recipe) => recipe.folders),
    users: recipes.flatMap((recipe) => recipe.users),
  };
  const maps = {
    environment: Object.assign({}, ...recipes.map((recipe) => recipe.environment)),
    scriptlets: Object.assign({}, ...recipes.map((recipe) => recipe.scriptlets ?? {})),
  };
  return Object.assign({}, ...recipes, lists, maps, mergeModules(recipes));
}

function mergeModules(recipes: readonly ImageRecipe[]) {
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
  const { packages, groups, modules } = recipe;
  if (packages.length + groups.length + (modules?.install.length ?? 0) === 0) {
    document.report(['packages'], 'no package, no group and no module is named', {
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

function reachOf(path: string, title: string, options: LoadOptions): RecipeReach {
  const { files, variables, holdName } = options;
  if (options.isTrusted(path)) return anywhere(files, holdName);
  const copy = files && { files, path };
  return inFolder({ title, folder: dirname(title), fixtures: variables.KILN_FIXTURES, copy });
}

async function readableFile(
  file: RecipeFile,
  directory: string,
  reach: RecipeReach,
): Promise<LoadedFile> {
  if (file.source === undefined) return file;
  const source = await reach.place(resolve(directory, file.source), 'file');
  return { ...file, source, below: reach.below };
}

async function readableRepository(
  configuration: RepositoryConfiguration,
  { below, place }: RecipeReach,
  options: ResolveOptions,
): Promise<Repository> {
  const named = new Map<string, 'file' | 'folder'>();
  resolveRepository(configuration, {
    ...options,
    place: (path, kind) => {
      named.set(path, kind);
      return path;
    },
  });
  const places = new Map<string, string>();
  for (const [path, kind] of named) places.set(path, await place(path, kind));
  return resolveRepository(configuration, {
    ...{ ...options, below },
    place: (path) => places.get(path) ?? '',
  });
}
