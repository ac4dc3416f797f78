import type { ArtifactWarning } from '../../artifacts/warning.ts';
import type { KilnError } from '../../errors.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import type { BuildRecipe } from '../../recipe/build-recipe.ts';
import type { OnProgress } from '../../repository/progress.ts';
import type { RunRequest } from '../../run/request.ts';
import type { RunReport } from '../../run/run.ts';
import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import type { Bind, SandboxLimits } from '../../sandbox/specification.ts';
import type { ReadySource } from './sources.ts';

/** Everything the caller decides about a recipe's build. What is given here goes before the recipe. */
export interface RecipeRequest {
  /** The recipe, absolute: YAML, or TypeScript or JavaScript. */
  readonly path: string;
  /** Instead of the recipe's image; as `-r` takes it. */
  readonly image?: string;
  /** What a TypeScript recipe finds in `parameters`. */
  readonly parameters?: Readonly<Record<string, string>>;
  /** Whether the recipe may use `$host`, `bind` and `network: host`. */
  readonly allowHost?: boolean;
  /** See SandboxSpecification. */
  readonly allowHostWrite?: boolean;
  /** A folder in which sources are looked for by their digest before they are downloaded. */
  readonly sources?: string;
  /** Download no source: what is neither cached nor in `sources` is an error. */
  readonly offline?: boolean;
  readonly binds?: readonly Bind[];
  readonly limits?: SandboxLimits;
  /** Bytes each private file system of the box may hold. */
  readonly disk?: number;
  /** `timeout` is for all steps together, `stallTimeout` for each. Milliseconds. */
  readonly time?: TimeLimits;
  /** Where artifacts and result.json go, absolute on the host. */
  readonly resultDirectory?: string;
  /** Keep the box so many seconds when a step fails. */
  readonly keepSeconds?: number;
  /** Whose the artifacts are, and who runs what `$host` runs. */
  readonly caller: { readonly uid: number; readonly gid: number };
  /** The caller's variables, for what `$host` runs. No part of the plan or the result. */
  readonly callerEnvironment: Readonly<Record<string, string>>;
}

/** What a caller hears of a recipe's build while it runs. */
export interface RecipeHooks {
  /** Ends the build: its box is destroyed, and {@link runRecipe} throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** What the steps write, as it comes: both streams of a command, and what the recipe prints. */
  readonly onOutput: (chunk: Buffer) => void;
  readonly onStep?: ((step: StepEvent) => void) | undefined;
  readonly onImageProgress?: OnImageProgress | undefined;
  readonly onSourceProgress?: OnProgress | undefined;
  readonly onWarning: (warning: ArtifactWarning) => void;
}

/** A step begins, or has ended. */
export interface StepEvent {
  readonly name: string;
  /** Counted from 1. */
  readonly number: number;
  readonly count: number;
  readonly event: 'start' | 'finish' | 'fail';
  /** Of one that has ended. */
  readonly milliseconds?: number;
}

/** The step that failed, and what it said. */
export interface FailedStep {
  readonly name: string;
  /** The script, or the command of a function that failed; undefined when none did. */
  readonly command: string | undefined;
  /** The end of what it wrote, oldest first. */
  readonly lastLines: readonly string[];
  readonly error: KilnError;
}

/** What came of a recipe's build. `end` is that of the step that failed, or of the last. */
export interface RecipeReport extends RunReport {
  readonly recipe: BuildRecipe;
  readonly sources: readonly ReadySource[];
  readonly failedStep: FailedStep | undefined;
  /** The box is there still. */
  readonly kept: boolean;
  /** What {@link resultOfRun} needs: the request as the recipe and the caller made it. */
  readonly request: RunRequest & { readonly recipe: Readonly<Record<string, unknown>> };
}
