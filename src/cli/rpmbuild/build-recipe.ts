import { dirname, resolve } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { callerShell, userShell } from '../../jobs/recipe/host-shell.ts';
import {
  findBuildRecipe,
  type HostShell,
  isScript,
  type RecipeReport,
  type RecipeRequest,
  resultOfFailedRecipe,
  resultOfRecipe,
} from '../../jobs/recipe/request.ts';
import { runRecipe } from '../../jobs/recipe/run-recipe.ts';
import { Timeline } from '../../jobs/run/timeline.ts';
import { buildRecipeJsonSchema } from '../../recipe/build-recipe.ts';
import { writeResult } from '../../report/write.ts';
import type { Result } from '../../result/schema.ts';
import { type CallerUser, forbidden } from '../../users/user.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';
import type { LimitValues } from '../options/limit-options.ts';
import { printError } from '../output/errors.ts';
import { commandStatus, exitStatus, KILN_FAILED } from '../output/exit-status.ts';
import { printJson } from '../output/print.ts';
import { admitRecipe } from '../users/user-recipe.ts';
import type { RecipeOptions } from './build-recipe-options.ts';
import { RecipeOutput } from './recipe-output.ts';

/** Options of `kiln build` for both recipes and packages. */
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

/** Builds the recipe `name`, and sets kiln's exit status. */
export async function buildRecipe(
  name: string,
  options: SharedOptions & RecipeOptions,
  caller: Caller,
  begin: () => void,
): Promise<void> {
  const path = await findBuildRecipe(name, caller.user?.files?.folder ?? caller.cwd());
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
    const onStep: typeof output.hooks.onStep = (step) => {
      begin();
      output.hooks.onStep?.(step);
    };
    const hooks = { ...output.hooks, onStep, signal: interruption.signal };
    const report = await runRecipe(engine, request, hooks, timeline);
    caller.exitStatus = recipeStatus(report);
    output.finish(report);
    await publish(request, json, resultOfRecipe(report, Number(caller.exitStatus)), caller);
  } catch (error) {
    output.interrupt();
    printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
    const status = Number(caller.exitStatus);
    await publish(request, json, resultOfFailedRecipe(request, status, error, timeline), caller);
  }
}

/** The search path of host commands in a user's recipe. */
const USERS_PATH = '/usr/local/bin:/usr/bin:/bin';

type RecipeCaller = Pick<Caller, 'ids' | 'environment' | 'cwd' | 'variable'> &
  Partial<Pick<Caller, 'user'>>;

/** The request of a command line. */
export function recipeRequest(
  path: string,
  options: SharedOptions & RecipeOptions,
  caller: RecipeCaller,
): RecipeRequest {
  const { image, sources, memory, cpus, pids, ioRead, ioWrite, disk, timeout, stallTimeout } =
    options;
  const keepSeconds = options.keep && options.keep / 1000;
  return {
    path,
    ...defined({ image }),
    parameters: Object.fromEntries(options.param),
    allowHost: options.allowHost === true,
    ...(options.allowHostWrite === true ? { allowHostWrite: true } : {}),
    ...(sources === undefined ? {} : { sources: resolve(sources) }),
    offline: options.offline === true,
    binds: options.bind,
    limits: defined({ memory, cpus, pids, ioRead, ioWrite }),
    ...defined({ disk }),
    time: defined({ timeout, stallTimeout }),
    resultDirectory: resolve(options.resultdir),
    ...defined({ keepSeconds }),
    caller: caller.ids,
    ...(options.allowHost === true ? { host: hostShell(path, caller) } : {}),
    ...(caller.user === undefined ? {} : partsOfUser(path, caller.user, options)),
  };
}

/** The shell for a recipe's `$host`: where it runs commands, and as whom. */
function hostShell(path: string, caller: RecipeCaller): HostShell {
  const { ids, user, environment } = caller;
  if (user === undefined) return callerShell(ids, { cwd: dirname(path), environment });
  if (!user.policy.hostCommands) {
    const why = 'root has not allowed it (users.hostCommands in /etc/kiln/kiln.yaml)';
    return { cwd: '/', start: () => Promise.reject(forbidden('$host', why)) };
  }
  const own = ['HOME', 'USER', 'LOGNAME'].flatMap((name) => {
    const value = caller.variable(name);
    return value === undefined ? [] : [[name, value] as const];
  });
  const variables = { ...environment, ...Object.fromEntries(own), PATH: USERS_PATH };
  return userShell(user, { cwd: caller.cwd(), environment: variables });
}

/** The folder of a recipe: the user's for a user's own recipe, kiln's for one that comes with kiln. */
function partsOfUser(
  path: string,
  user: CallerUser,
  options: SharedOptions & RecipeOptions,
): Pick<RecipeRequest, 'admit' | 'folder'> {
  const folder = user.files?.folderOf(path);
  return {
    ...defined({ folder }),
    admit: (recipe) => admitRecipe(recipe, user, options),
  };
}

/** The status of the failed step; kiln's own if the steps succeeded and kiln failed. */
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
    const renamed = caller.user?.files?.renamed(result) ?? result;
    await writeResult(request.resultDirectory, renamed, request.caller);
  } catch (error) {
    printError(error, caller.stderr);
    if (!caller.exitStatus) caller.exitStatus = KILN_FAILED;
  }
}
