import { resolve } from 'node:path';
import { findBuildRecipe, isScript } from '../build/recipe/find.ts';
import type { RecipeReport, RecipeRequest } from '../build/recipe/request.ts';
import { resultOfFailedRecipe, resultOfRecipe } from '../build/recipe/result.ts';
import { runRecipe } from '../build/recipe/run-recipe.ts';
import { KilnError } from '../errors.ts';
import type { Result } from '../result/schema.ts';
import { writeResult } from '../result/write.ts';
import { callerIds } from '../run/request.ts';
import { Timeline } from '../run/timeline.ts';
import { KILN_VERSION } from '../state/version.ts';
import { replaceParked } from './background.ts';
import type { RecipeOptions } from './build-recipe-options.ts';
import { openEngine } from './engine.ts';
import { printError } from './errors.ts';
import { commandStatus, exitStatus, KILN_FAILED } from './exit-status.ts';
import { listenForInterruption } from './interruption.ts';
import type { LimitValues } from './limit-options.ts';
import { printJson } from './print.ts';
import { RecipeOutput } from './recipe-output.ts';

/** Options of `kiln build` that recipes share with packages. */
export interface SharedOptions extends LimitValues {
  readonly image?: string;
  readonly sources?: string;
  readonly resultdir: string;
  readonly keep?: number;
  readonly offline?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** Prints the schema of YAML recipes. */
export async function printRecipeSchema(): Promise<void> {
  const { buildRecipeJsonSchema } = await import('../recipe/build-recipe.ts');
  printJson(buildRecipeJsonSchema(), { indent: 2 });
}

/** Builds the recipe that `name` means, and sets kiln's exit status. */
export async function buildRecipe(
  name: string,
  options: SharedOptions & RecipeOptions,
): Promise<void> {
  const path = await findBuildRecipe(name, process.cwd());
  if (options.param.length > 0 && !isScript(path)) {
    throw new KilnError('E_ARGUMENT', `a recipe in YAML takes no --param: ${path}`, {
      hint: 'a TypeScript recipe finds them in `parameters`; see docs/recipes.md',
    });
  }
  const request = recipeRequest(path, options);
  await using engine = openEngine();
  using interruption = listenForInterruption();
  using output = new RecipeOutput(path, options.quiet === true);
  const timeline = new Timeline();
  const json = options.json === true;
  try {
    const hooks = { ...output.hooks, signal: interruption.signal };
    const report = await runRecipe(engine, request, hooks, timeline);
    process.exitCode = recipeStatus(report);
    output.finish(report);
    await publish(request, json, resultOfRecipe(report, KILN_VERSION, Number(process.exitCode)));
  } catch (error) {
    output.interrupt();
    printError(error);
    process.exitCode = exitStatus(error);
    const status = Number(process.exitCode);
    await publish(
      request,
      json,
      resultOfFailedRecipe(request, KILN_VERSION, status, error, timeline),
    );
  } finally {
    replaceParked(engine.paths);
  }
}

function recipeRequest(path: string, options: SharedOptions & RecipeOptions): RecipeRequest {
  const { image, sources, memory, cpus, pids, ioRead, ioWrite, disk, timeout, stallTimeout } =
    options;
  const keepSeconds = options.keep && options.keep / 1000;
  return {
    path,
    ...(image === undefined ? {} : { image }),
    parameters: Object.fromEntries(options.param),
    allowHost: options.allowHost === true,
    ...(options.allowHostWrite === true ? { allowHostWrite: true } : {}),
    ...(sources === undefined ? {} : { sources: resolve(sources) }),
    offline: options.offline === true,
    binds: options.bind,
    limits: {
      ...(memory === undefined ? {} : { memory }),
      ...(cpus === undefined ? {} : { cpus }),
      ...(pids === undefined ? {} : { pids }),
      ...(ioRead === undefined ? {} : { ioRead }),
      ...(ioWrite === undefined ? {} : { ioWrite }),
    },
    ...(disk === undefined ? {} : { disk }),
    time: {
      ...(timeout === undefined ? {} : { timeout }),
      ...(stallTimeout === undefined ? {} : { stallTimeout }),
    },
    resultDirectory: resolve(options.resultdir),
    ...(keepSeconds === undefined ? {} : { keepSeconds }),
    caller: callerIds(process.env),
  };
}

/** That of the step that failed; where the steps went well and kiln did not, kiln's own. */
function recipeStatus({ end, failure }: RecipeReport): number {
  const status = commandStatus(end);
  return status === 0 && failure !== undefined ? KILN_FAILED : status;
}

async function publish(request: RecipeRequest, json: boolean, result: Result): Promise<void> {
  try {
    if (json) printJson(result, { to: 'stderr' });
    if (request.resultDirectory === undefined) return;
    await writeResult(request.resultDirectory, result, request.caller);
  } catch (error) {
    printError(error);
    if (!process.exitCode) process.exitCode = KILN_FAILED;
  }
}
