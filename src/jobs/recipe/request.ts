import { statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import type { Warning } from '../../artifacts/warning.ts';
import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import type { OnImageProgress } from '../../image/progress.ts';
import { ASKED_OF_RECIPES } from '../../options/build.ts';
import { usualValues, type ValuesOf, valuesIn } from '../../options/row.ts';
import { type LimitValues, SANDBOX } from '../../options/sandbox.ts';
import type { OnProgress } from '../../packages/repository/transport/transfer.ts';
import type { BuildRecipe } from '../../recipe/build-recipe.ts';
import type { RecipeFolder } from '../../recipe/folder.ts';
import type { Result } from '../../result/schema.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { suggestion } from '../../suggest.ts';
import type { RunRequest } from '../run/request.ts';
import { type Renamed, resultOfFailure, resultOfRun } from '../run/result.ts';
import type { RunReport } from '../run/run.ts';
import type { Timeline } from '../run/timeline.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { SpawnMessage } from './script-session.ts';
import type { ReadySource } from './sources.ts';

/** What the rows of ASKED_OF_RECIPES say. `timeout` is for all steps together, `stallTimeout` for each. */
export interface RecipeRequest extends Partial<ValuesOf<typeof ASKED_OF_RECIPES>> {
  readonly path: string;
  readonly folder?: RecipeFolder;
  /**
   * Checks what a user's recipe asks for, and opens the binds of a recipe whose caller allows the host.
   * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_BIND
   */
  readonly admit: (recipe: BuildRecipe) => Promise<readonly Bind[]>;
  /** Where neither the caller nor the recipe says anything. */
  readonly usual?: LimitValues;
  readonly resultDirectory?: HeldPath;
  readonly caller: { readonly uid: number; readonly gid: number };
  readonly host?: HostShell | undefined;
}

export interface HostShell {
  readonly cwd: string;
  start(message: SpawnMessage): Promise<CommandProcess>;
}

export interface RecipeHooks {
  readonly signal?: AbortSignal | undefined;
  readonly onOutput: (chunk: Buffer) => void;
  readonly onStep?: ((step: StepEvent) => void) | undefined;
  readonly onImageProgress?: OnImageProgress | undefined;
  readonly onSourceProgress?: OnProgress | undefined;
  readonly onWarning: (warning: Warning) => void;
}

interface StepEvent {
  readonly name: string;
  readonly number: number;
  readonly count: number;
  readonly event: 'start' | 'finish' | 'fail';
  readonly milliseconds?: number;
}

export interface FailedStep {
  readonly name: string;
  readonly command: string | undefined;
  readonly lastLines: readonly string[];
  readonly error: KilnError;
}

export interface RecipeReport extends RunReport {
  readonly recipe: BuildRecipe;
  readonly sources: readonly ReadySource[];
  readonly failedStep: FailedStep | undefined;
  readonly request: RunRequest & { readonly recipe: Readonly<Record<string, unknown>> };
}

export function resultOfRecipe(report: RecipeReport, exitStatus: number, renamed: Renamed): Result {
  const { request, failedStep } = report;
  const result = resultOfRun({ request, exitStatus, renamed }, report);
  if (failedStep === undefined || result.failure === null) return result;
  const phase = `step ${failedStep.name}`;
  return { ...result, failure: { ...result.failure, phase, lastLines: failedStep.lastLines } };
}

/** What result.json says of the command line, without values of parameters, which may be secrets. */
export function askedFor(request: RecipeRequest): Readonly<Record<string, unknown>> {
  const { path } = request;
  const { parameters = {}, allowHost = false, ...given } = valuesIn(ASKED_OF_RECIPES, request);
  return { path, parameters: Object.keys(parameters), allowHost, given };
}

export function resultOfFailedRecipe(
  asked: RecipeRequest,
  exitStatus: number,
  error: unknown,
  timeline: Timeline,
  renamed: Renamed,
): Result {
  const request = {
    ...usualValues(SANDBOX),
    image: asked.image ?? '',
    argv: ['kiln build', asked.path],
    binds: asked.binds ?? [],
    caller: asked.caller,
    recipe: askedFor(asked),
  };
  const { course, current, failed: phase = current } = timeline;
  return resultOfFailure({ request, exitStatus, renamed }, { error, ...course, phase });
}

const ENDINGS = ['.ts', '.mts', '.js', '.mjs', '.yaml', '.yml'] as const;

export function isRecipeName(name: string): boolean {
  return ENDINGS.some((ending) => name.endsWith(ending));
}

export function isScript(path: string): boolean {
  return /\.m?[tj]s$/.test(path);
}

/**
 * The recipe that `name` means, absolute: a path if it ends as one, otherwise a recipe that comes with kiln.
 * @throws KilnError E_RECIPE_MISSING
 */
export async function findBuildRecipe(name: string, cwd: string): Promise<string> {
  const shipped = join(packageRoot(), 'recipes/builds');
  const candidates = isRecipeName(name)
    ? [resolve(cwd, name)]
    : basename(name) === name
      ? ENDINGS.map((ending) => join(shipped, name + ending))
      : [];
  const found = candidates.find((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
  if (found !== undefined) return found;
  const known = await recipeNames(shipped);
  const otherwise = `give the path of a .ts or .yaml file, or one of: ${known.join(', ')}`;
  throw new KilnError('E_RECIPE_MISSING', `there is no build recipe ${name}`, {
    hint: suggestion(name, known, otherwise),
  });
}

async function recipeNames(folder: string): Promise<string[]> {
  const names = (await readdir(folder)).filter(isRecipeName);
  return [...new Set(names.map((name) => name.replace(/\.[a-z]+$/, '')))].sort();
}
