import { basename, dirname } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { callerShell, userShell } from '../../jobs/recipe/host-shell.ts';
import {
  findBuildRecipe,
  type HostShell,
  isScript,
  type RecipeHooks,
  type RecipeReport,
  type RecipeRequest,
  resultOfFailedRecipe,
  resultOfRecipe,
} from '../../jobs/recipe/request.ts';
import { runRecipe } from '../../jobs/recipe/run-recipe.ts';
import { lockResults } from '../../jobs/rpmbuild/outcome/result-files.ts';
import { lengthOf, Timeline } from '../../jobs/run/timeline.ts';
import { ASKED_OF_RECIPES } from '../../options/build.ts';
import { type ValuesOf, valuesIn } from '../../options/row.ts';
import type { LimitValues } from '../../options/sandbox.ts';
import { buildRecipeJsonSchema } from '../../recipe/build-recipe.ts';
import { forbiddenError } from '../../users/configuration.ts';
import { type Caller, listenForInterruption, type OptionCaller } from '../caller/caller.ts';
import {
  commandStatus,
  exitStatus,
  KILN_FAILED,
  printEgressRefusals,
  printError,
  printWarning,
} from '../output/errors.ts';
import { LogView, printJson, printLines } from '../output/print.ts';
import { imageProgress } from '../output/progress.ts';
import { reportResult, resultsPlace } from '../output/run-report.ts';
import { admitRecipe } from '../users/user-guard.ts';
import { printWhereToLook } from './build-output.ts';

interface RecipeValues extends ValuesOf<typeof ASKED_OF_RECIPES> {
  /** What kiln.yaml says where neither the caller nor the recipe does. */
  readonly usual?: LimitValues;
}

interface RecipeBuildOptions extends RecipeValues {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly samples: boolean;
}

export function printRecipeSchema(caller: Caller): void {
  printJson(caller.stdout, buildRecipeJsonSchema(), 2);
}

export async function buildRecipe(
  name: string,
  options: RecipeBuildOptions,
  caller: Caller,
  begin: () => void,
): Promise<void> {
  const path = await findBuildRecipe(name, caller.user?.files?.folder ?? caller.cwd());
  if (Object.keys(options.parameters).length > 0 && !isScript(path)) {
    throw new KilnError('E_ARGUMENT', `a recipe in YAML takes no --param: ${path}`, {
      hint: 'a TypeScript recipe finds them in `parameters`; see docs/recipes.md',
    });
  }
  let request = recipeRequest(path, options, caller);
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  using interruption = listenForInterruption(caller);
  using output = recipeOutput(path, options.quiet === true, begin, caller);
  const timeline = new Timeline();
  timeline.samples.isOn = options.samples;
  const json = options.json === true;
  using held = new DisposableStack();
  try {
    const resultDirectory = await caller.paths.loneResults(options.resultDirectory);
    request = { ...request, resultDirectory };
    held.use(await lockResults(resultDirectory, request.caller));
    const hooks = { ...output.hooks, signal: interruption.signal };
    const report = await runRecipe(engine, request, hooks, timeline);
    caller.exitStatus = recipeStatus(report);
    output.finish(report);
    const describe = (status: number) => resultOfRecipe(report, status, engine.renamed);
    await reportResult(resultsPlace(request, report.failure), json, describe, caller);
  } catch (error) {
    output[Symbol.dispose]();
    printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
    const describe = (status: number) =>
      resultOfFailedRecipe(request, status, error, timeline, engine.renamed);
    await reportResult(resultsPlace(request, error), json, describe, caller);
  }
}

const USERS_PATH = '/usr/local/bin:/usr/bin:/bin';

export function recipeRequest(
  path: string,
  options: RecipeValues,
  caller: OptionCaller,
): RecipeRequest {
  const { resultDirectory: _, ...asked } = valuesIn(ASKED_OF_RECIPES, options);
  return {
    ...asked,
    path,
    admit: (recipe) => admitRecipe(recipe, caller, options),
    caller: caller.ids,
    ...defined({
      usual: options.usual,
      host: options.allowHost === true ? hostShell(path, caller) : undefined,
      // Of a recipe of the caller's, the folder is the caller's, of one that comes with kiln kiln's.
      folder: caller.paths.folderOf(path),
    }),
  };
}

function hostShell(path: string, caller: OptionCaller): HostShell {
  const { ids, user, environment, paths } = caller;
  // Its commands may do on the host what root may: where they start takes nothing from that.
  if (user === undefined)
    return callerShell(ids, { cwd: dirname(paths.renamed(path)), environment });
  if (!user.policy.hostCommands) {
    const why = 'root has not allowed it (users.hostCommands in /etc/kiln/kiln.yaml)';
    return { cwd: '/', start: () => Promise.reject(forbiddenError('$host', why)) };
  }
  const [HOME, USER, LOGNAME] = ['HOME', 'USER', 'LOGNAME'].map((name) => caller.variable(name));
  const variables = { ...environment, ...defined({ HOME, USER, LOGNAME }), PATH: USERS_PATH };
  return userShell(user, { cwd: caller.cwd(), environment: variables });
}

export function recipeStatus({ end, failure }: RecipeReport): number {
  const status = commandStatus(end);
  return status === 0 && failure !== undefined ? KILN_FAILED : status;
}

const LAST_LINES = 12;
const COMMAND_LINES = 8;

function recipeOutput(path: string, quiet: boolean, begin: () => void, caller: Caller) {
  const view = new LogView(() => caller.stdout);
  const progress = imageProgress(caller);
  const dispose = () => progress[Symbol.dispose]();
  const hooks: RecipeHooks = {
    onImageProgress: progress.report,
    onSourceProgress: progress.report,
    onWarning: (warning) => printWarning(warning, caller.stderr),
    onOutput: (chunk) => {
      if (!quiet) view.write(chunk);
    },
    onStep: ({ name, number, count, event, milliseconds = 0 }) => {
      begin();
      dispose();
      const title = name === String(number) ? '' : `: ${name}`;
      const step = `kiln: step ${number} of ${count}${title}`;
      if (!quiet && event === 'start') caller.stderr.say(`${step}\n`);
      else if (quiet && event === 'fail') {
        caller.stderr.say(`${step}: ${event}, ${(milliseconds / 1000).toFixed(1)} s\n`);
      }
    },
  };
  const finish = (report: RecipeReport): void => {
    view[Symbol.dispose]();
    dispose();
    const { stderr } = caller;
    const { failedStep, failure, collection, limitHit, kept, sandbox } = report;
    const { resultDirectory } = report.request;
    if (failedStep?.command !== undefined) {
      const lines = failedStep.command.trim().split('\n');
      for (const line of lines.slice(0, COMMAND_LINES)) stderr.say(`  $ ${line}\n`);
      if (lines.length > COMMAND_LINES) stderr.say('  $ …\n');
    }
    printLines(failedStep?.lastLines.slice(-LAST_LINES) ?? [], stderr);
    if (limitHit !== null && limitHit !== 'timeout' && limitHit !== 'stall') {
      stderr.say(`kiln: the limit of ${limitHit} was reached\n`);
    }
    if (failure !== undefined) {
      printError(failure, stderr, recipeStatus(report));
      printWhereToLook({ sandbox, kept: kept !== undefined, failure, resultDirectory }, caller);
    }
    printEgressRefusals(report.egress ?? [], stderr);
    for (const { path: file, type } of collection?.artifacts ?? []) {
      if (type === 'file') stderr.say(`kiln: ${resultDirectory}/${file}\n`);
    }
    if (kept !== undefined) stderr.say(`kiln: kept as ${sandbox}: kiln shell ${sandbox}\n`);
    if (failure === undefined && !quiet) {
      const seconds = (lengthOf(report.phases) / 1000).toFixed(1);
      stderr.say(`kiln: ${basename(path)}: done after ${seconds} s\n`);
    }
  };
  const end = () => {
    view[Symbol.dispose]();
    dispose();
  };
  return { hooks, finish, [Symbol.dispose]: end };
}
