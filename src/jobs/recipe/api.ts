/** What a TypeScript recipe imports from `kiln`. */
import type { $ as Shell } from 'zx';
import { KilnError } from '../../errors.ts';
import type { BuildRecipeInput } from '../../recipe/build-recipe.ts';

type StepInput = BuildRecipeInput['steps'][number];

/** A step in TypeScript: what a YAML one can have, but `run` may be a function. */
export type RecipeStepInput =
  | StepInput
  | (() => unknown)
  | (Omit<Exclude<StepInput, string>, 'run'> & { readonly run: string | (() => unknown) });

/** A recipe in TypeScript: its module's default export. */
export type RecipeInput = Omit<BuildRecipeInput, 'steps'> & {
  readonly steps: readonly RecipeStepInput[];
};

/** Types a recipe; it gives back what it gets. */
export function defineRecipe(recipe: RecipeInput): RecipeInput {
  return recipe;
}

/**
 * What `--param NAME=VALUE` gave on the command line. Empty where no recipe is being run.
 */
export const parameters: Readonly<Record<string, string>> = Object.freeze({});

/**
 * zx's `$`, but on the host, as the caller, in the recipe's folder. Only with `--allow-host`; there
 * is none where no recipe is being run.
 */
export const $host = hostShell(() => {
  throw new KilnError('E_HOST_NOT_ALLOWED', '$host works only in a recipe that kiln runs', {
    hint: 'run it with kiln build --allow-host',
  });
});

/** A `$host` that does `refuse` whatever it is used for. */
export function hostShell(refuse: () => never): Shell {
  // A function as the target, so that calling it is refused as well.
  return new Proxy(() => refuse(), { get: refuse, apply: refuse }) as unknown as Shell;
}
