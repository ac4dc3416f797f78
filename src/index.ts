/** The library: everything else in src is internal and may change. */

export * from './api/library.ts';
export {
  $host,
  defineRecipe,
  type HostCommand,
  type HostOutput,
  parameters,
  type RecipeHost,
  type RecipeInput,
  type RecipeStepInput,
} from './jobs/recipe/api.ts';
