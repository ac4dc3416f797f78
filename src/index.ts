/** The library: everything else in src is internal and may change. */

export type { SandboxCommand, SpawnOptions } from './api/command.ts';
export { type ConnectOptions, connect } from './api/connect.ts';
export type { JobOptions } from './api/connection.ts';
export type * from './api/io-kiln.ts';
export type {
  BuildImageOptions,
  BuildOptions,
  Kiln,
  OpenOptions,
  RunOptions,
  RunOutcome,
} from './api/kiln.ts';
export { ExecError, type ExecOptions, type ExecResult, type Sandbox } from './api/sandbox.ts';
export { KilnError } from './errors.ts';
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
