/** The library: everything else in src is internal and may change. */
export {
  $host,
  defineRecipe,
  parameters,
  type RecipeInput,
  type RecipeStepInput,
} from './build/recipe/api.ts';
export type { RecipeHooks, RecipeReport, RecipeRequest } from './build/recipe/request.ts';
export { runRecipe } from './build/recipe/run-recipe.ts';
export { KilnError } from './errors.ts';
export {
  type CommandOptions,
  Kiln,
  type KilnOptions,
  type OpenOptions,
  type OpenSandbox,
  openKiln,
} from './kiln.ts';
export type { RunRequest } from './run/request.ts';
export type { FinishedRun, RunHooks, RunReport } from './run/run.ts';
export type { SandboxProcess } from './sandbox/process.ts';
