import { statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import { KilnError } from '../../errors.ts';
import { packageRoot } from '../../host/state/paths.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import type { OnProgress } from '../../packages/repository/transport/progress.ts';
import type { BuildRecipe } from '../../recipe/build-recipe.ts';
import type { RecipeFolder } from '../../recipe/folder.ts';
import { suggest } from '../../recipe/problem.ts';
import type { Result } from '../../result/schema.ts';
import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import type { Bind, SandboxLimits } from '../../sandbox/policy/specification.ts';
import type { RunRequest } from '../run/request.ts';
import { resultOfFailure, resultOfRun } from '../run/result.ts';
import type { RunReport } from '../run/run.ts';
import type { Timeline } from '../run/timeline.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { SpawnMessage } from './script-protocol.ts';
import type { ReadySource } from './sources.ts';

/** Everything the caller decides about a recipe's build. What is given here goes before the recipe. */
export interface RecipeRequest {
  /** The recipe, absolute: YAML, or TypeScript or JavaScript. */
  readonly path: string;
  /** What it may read of its folder; the folder of `path` unless given. */
  readonly folder?: RecipeFolder;
  /**
   * Of a user who is not root: checks what the recipe asks for, and gives its binds as the user has them.
   * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_BIND
   */
  readonly admit?: (recipe: BuildRecipe) => Promise<readonly Bind[]>;
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
  /** Bytes each private file system of the sandbox may hold. */
  readonly disk?: number;
  /** `timeout` is for all steps together, `stallTimeout` for each. Milliseconds. */
  readonly time?: TimeLimits;
  /** Where artifacts and result.json go, absolute on the host. */
  readonly resultDirectory?: string;
  /** Keep the sandbox so many seconds when a step fails. */
  readonly keepSeconds?: number;
  /** Whose the artifacts are. */
  readonly caller: { readonly uid: number; readonly gid: number };
  /** Runs what `$host` runs; undefined: the recipe may not. */
  readonly host?: HostShell | undefined;
}

/** Where a recipe’s commands run that are not for the sandbox, and how. */
export interface HostShell {
  /** The folder in which they start unless the recipe says otherwise, absolute. */
  readonly cwd: string;
  /** @throws Error of spawn(2) */
  start(message: Pick<SpawnMessage, 'argv' | 'cwd' | 'env'>): Promise<CommandProcess>;
}

/** What a caller hears of a recipe's build while it runs. */
export interface RecipeHooks {
  /** Ends the build: its sandbox is destroyed, and {@link runRecipe} throws the signal's reason. */
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
  readonly number: number;
  readonly count: number;
  readonly event: 'start' | 'finish' | 'fail';
  /** Of one that has ended. */
  readonly milliseconds?: number;
}

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
  /** The sandbox is there still. */
  readonly kept: boolean;
  /** What {@link resultOfRun} needs: the request as the recipe and the caller made it. */
  readonly request: RunRequest & { readonly recipe: Readonly<Record<string, unknown>> };
}

/* result.json of a recipe's build: that of a run, with the step that failed. */

/** For a build whose steps ran, well or not. */
export function resultOfRecipe(report: RecipeReport, exitStatus: number): Result {
  const { request, failedStep } = report;
  const result = resultOfRun({ request, exitStatus }, report);
  if (failedStep === undefined || result.failure === null) return result;
  const phase = `step ${failedStep.name}`;
  return { ...result, failure: { ...result.failure, phase, lastLines: [...failedStep.lastLines] } };
}

/** For a build that kiln could not bring to its end. */
export function resultOfFailedRecipe(
  asked: RecipeRequest,
  exitStatus: number,
  error: unknown,
  timeline: Timeline,
): Result {
  const request = {
    image: asked.image ?? '',
    argv: ['kiln build', asked.path],
    env: {},
    capAdd: [],
    seccomp: '',
    network: 'private' as const,
    binds: asked.binds ?? [],
    tmpfs: [],
    limits: asked.limits ?? {},
    time: asked.time ?? {},
    copyIn: [],
    artifacts: [],
    caller: asked.caller,
    recipe: { path: asked.path, parameters: Object.keys(asked.parameters ?? {}) },
  };
  const { course, current, failed: phase = current } = timeline;
  return resultOfFailure({ request, exitStatus }, { error, ...course, phase });
}

/** What a recipe's file name ends in; a script first, where both lie side by side. */
const ENDINGS = ['.ts', '.mts', '.js', '.mjs', '.yaml', '.yml'] as const;
const SCRIPT = /\.m?[tj]s$/;

/** Is this file name one of a recipe, and not of a source package or a spec? */
export function isRecipeName(name: string): boolean {
  return ENDINGS.some((ending) => name.endsWith(ending));
}

/** Is the recipe at `path` a program, and not YAML? */
export function isScript(path: string): boolean {
  return SCRIPT.test(path);
}

/**
 * The recipe that `name` means, absolute: a path, or a recipe's name in ./recipes/builds or among
 * kiln's own.
 * @throws KilnError E_RECIPE_MISSING
 */
export async function findBuildRecipe(name: string, cwd: string): Promise<string> {
  const folders = [join(cwd, 'recipes', 'builds'), join(packageRoot(), 'recipes', 'builds')];
  const candidates = isRecipeName(name)
    ? [resolve(cwd, name)]
    : basename(name) === name
      ? folders.flatMap((folder) => ENDINGS.map((ending) => join(folder, name + ending)))
      : [];
  const found = candidates.find((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
  if (found !== undefined) return found;
  const known = await recipeNames(folders);
  const near = suggest(name, known);
  throw new KilnError('E_RECIPE_MISSING', `there is no build recipe ${name}`, {
    hint:
      near === undefined
        ? `give the path of a .ts or .yaml file, or one of: ${known.join(', ')}`
        : `did you mean ${near}?`,
  });
}

async function recipeNames(folders: readonly string[]): Promise<string[]> {
  const lists = await Promise.all(folders.map((folder) => readdir(folder).catch(() => [])));
  const names = lists.flat().filter(isRecipeName);
  return [...new Set(names.map((name) => name.replace(/\.[a-z]+$/, '')))].sort();
}
