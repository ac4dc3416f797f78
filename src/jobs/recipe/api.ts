/** What a TypeScript recipe imports from `kiln`. */
import { KilnError } from '../../errors.ts';
import type { BuildRecipeInput } from '../../recipe/build-recipe.ts';

/* The schema's types but for what is a function here: what a recipe may say is written once, as the schema. */

type StepInput = BuildRecipeInput['steps'][number];

export type RecipeStepInput =
  | StepInput
  | (() => unknown)
  | (Omit<Exclude<StepInput, string>, 'run'> & { readonly run: string | (() => unknown) });

export type RecipeInput = Omit<BuildRecipeInput, 'steps'> & {
  readonly steps: readonly RecipeStepInput[];
};

export function defineRecipe(recipe: RecipeInput): RecipeInput {
  return recipe;
}

/** The values of `--param NAME=VALUE`. Empty outside of a recipe that kiln runs. */
export const parameters: Readonly<Record<string, string>> = Object.freeze({});

/** How a command of {@link RecipeHost} ended. It is thrown if the command failed. */
export interface HostOutput {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  text(): string;
  lines(): string[];
  // biome-ignore lint/suspicious/noExplicitAny: as JSON.parse()
  json<Value = any>(): Value;
}

/** A command of {@link RecipeHost}: awaited, or read as text, lines or JSON. */
export interface HostCommand extends PromiseLike<HostOutput> {
  quiet(): this;
  nothrow(): this;
  timeout(duration: number | `${number}s` | `${number}m`): this;
  kill(signal?: NodeJS.Signals): Promise<void>;
  text(): Promise<string>;
  lines(): Promise<string[]>;
  // biome-ignore lint/suspicious/noExplicitAny: as JSON.parse()
  json<Value = any>(): Promise<Value>;
}

/**
 * What recipes use of zx's `$`, and of its options. Its own types are not in the library's: they need those of
 * fs-extra, which zx does not bring, so that programs would not compile without `skipLibCheck`.
 */
export interface RecipeHost {
  (pieces: TemplateStringsArray, ...values: readonly unknown[]): HostCommand;
  (options: {
    readonly cwd?: string;
    readonly env?: NodeJS.ProcessEnv;
    readonly input?: string | Buffer;
    readonly nothrow?: boolean;
    readonly quiet?: boolean;
  }): RecipeHost;
}

/** zx's `$`, but on the host, as the caller, in the recipe's folder. Needs `--allow-host`. */
export const $host = recipeHost(() => {
  throw new KilnError('E_HOST_NOT_ALLOWED', '$host works only in a recipe that kiln runs', {
    hint: 'run it with kiln build --allow-host',
  });
});

export function recipeHost(refuse: () => never): RecipeHost {
  // A function as the target, so that calling it is refused as well.
  return new Proxy(() => refuse(), { get: refuse, apply: refuse }) as unknown as RecipeHost;
}
