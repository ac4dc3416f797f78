import { resolve } from 'node:path';
import {
  findBuildRecipe,
  isScript,
  type RecipeReport,
  type RecipeRequest,
  resultOfFailedRecipe,
  resultOfRecipe,
} from '../build/recipe/request.ts';
import { runRecipe } from '../build/recipe/run-recipe.ts';
import { KilnError } from '../errors.ts';
import { buildRecipeJsonSchema } from '../recipe/build-recipe.ts';
import { writeResult } from '../report/write.ts';
import type { Result } from '../result/schema.ts';
import { Timeline } from '../run/timeline.ts';
import { KILN_VERSION } from '../state/paths.ts';
import type { RecipeOptions } from './build-recipe-options.ts';
import type { Caller } from './caller.ts';
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
  readonly samples: boolean;
}

/** Prints the schema of YAML recipes. */
export function printRecipeSchema(caller: Caller): void {
  printJson(caller.stdout, buildRecipeJsonSchema(), { indent: 2 });
}

/** Builds the recipe that `name` means, and sets kiln's exit status. */
export async function buildRecipe(
  name: string,
  options: SharedOptions & RecipeOptions,
  caller: Caller,
): Promise<void> {
  const path = await findBuildRecipe(name, caller.cwd());
  if (options.param.length > 0 && !isScript(path)) {
    throw new KilnError('E_ARGUMENT', `a recipe in YAML takes no --param: ${path}`, {
      hint: 'a TypeScript recipe finds them in `parameters`; see docs/recipes.md',
    });
  }
  const request = recipeRequest(path, options, caller);
  await using engine = caller.openEngine();
  using interruption = listenForInterruption(caller);
  using output = new RecipeOutput(path, options.quiet === true, caller);
  const timeline = new Timeline();
  timeline.samples.isOn = options.samples;
  const json = options.json === true;
  try {
    const hooks = { ...output.hooks, signal: interruption.signal };
    const report = await runRecipe(engine, request, hooks, timeline);
    caller.exitStatus = recipeStatus(report);
    output.finish(report);
    await publish(
      request,
      json,
      resultOfRecipe(report, KILN_VERSION, Number(caller.exitStatus)),
      caller,
    );
  } catch (error) {
    output.interrupt();
    printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
    const status = Number(caller.exitStatus);
    await publish(
      request,
      json,
      resultOfFailedRecipe(request, KILN_VERSION, status, error, timeline),
      caller,
    );
  }
}

/** The request that a command line makes. */
export function recipeRequest(
  path: string,
  options: SharedOptions & RecipeOptions,
  caller: Pick<Caller, 'ids' | 'environment'>,
): RecipeRequest {
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
    caller: caller.ids,
    callerEnvironment: caller.environment,
  };
}

/** That of the step that failed; where the steps went well and kiln did not, kiln's own. */
export function recipeStatus({ end, failure }: RecipeReport): number {
  const status = commandStatus(end);
  return status === 0 && failure !== undefined ? KILN_FAILED : status;
}

async function publish(
  request: RecipeRequest,
  json: boolean,
  result: Result,
  caller: Caller,
): Promise<void> {
  try {
    if (json) printJson(caller.stderr, result);
    if (request.resultDirectory === undefined) return;
    await writeResult(request.resultDirectory, result, request.caller);
  } catch (error) {
    printError(error, caller.stderr);
    if (!caller.exitStatus) caller.exitStatus = KILN_FAILED;
  }
}
