import { dirname, join } from 'node:path';
import { checkPatterns } from '../../artifacts/collect.ts';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { pathsOfUser } from '../../host/state/paths.ts';
import { isOwnRecipe, resolveImage } from '../../image/find.ts';
import { openImage } from '../../image/open.ts';
import {
  type BuildRecipe,
  checkScriptRecipe,
  loadBuildRecipe,
  stepsOf,
} from '../../recipe/build-recipe.ts';
import { hostFolder, type RecipeFolder } from '../../recipe/folder.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd, TimeLimits } from '../../sandbox/door/supervise.ts';
import type { Engine } from '../../sandbox/open.ts';
import { ResultFiles } from '../rpmbuild/outcome/result-files.ts';
import { collectorFor } from '../run/collect.ts';
import { planRun } from '../run/plan.ts';
import { Timeline } from '../run/timeline.ts';
import { sandboxRequest } from './plan.ts';
import { RecipeSandbox } from './recipe-sandbox.ts';
import {
  type FailedStep,
  isScript,
  type RecipeHooks,
  type RecipeReport,
  type RecipeRequest,
} from './request.ts';
import { ScriptSession } from './script-session.ts';
import { readySources } from './sources.ts';
import { runStep, type StepContext } from './steps.ts';

/**
 * Builds what a recipe describes, in one sandbox, and leaves nothing behind: gets and checks the
 * sources, takes the image, runs the steps, collects the artifacts. A step that fails is no
 * exception: the report's `failedStep` and `end` say so. `timeline` tells what was done when.
 *
 * Throws RecipeError (E_RECIPE), E_RECIPE_READ, E_RECIPE_SCRIPT, E_HOST_NOT_ALLOWED, what
 * {@link readySources} and openImage throw, what opening a sandbox throws; the signal's reason.
 */
export async function runRecipe(
  engine: Engine,
  request: RecipeRequest,
  hooks: RecipeHooks,
  timeline: Timeline = new Timeline(),
): Promise<RecipeReport> {
  hooks.signal?.throwIfAborted();
  const { resultDirectory, caller } = request;
  using files =
    resultDirectory === undefined
      ? undefined
      : await ResultFiles.open(resultDirectory, caller, ['build.log']);
  const unwritable = new AbortController();
  const signal = AbortSignal.any([...(hooks.signal ? [hooks.signal] : []), unwritable.signal]);
  const onOutput = (chunk: Buffer) => {
    hooks.onOutput(chunk);
    try {
      files?.append('build.log', chunk);
    } catch (error) {
      unwritable.abort(error);
    }
  };
  await using loaded = await timeline.measure('recipe', () => load(request, onOutput, signal));
  const { recipe, session } = loaded;
  const binds = (await request.admit?.(recipe)) ?? recipe.sandbox.bind;
  if (resultDirectory !== undefined) checkPatterns(recipe.artifacts);
  const sources = await timeline.measure('sources', () =>
    readySources(recipe.sources, {
      paths: engine.owner === undefined ? engine.paths : pathsOfUser(engine.paths, engine.owner),
      largest: engine.owner?.share.disk ?? Number.POSITIVE_INFINITY,
      folder: folderOf(request),
      offered: request.sources,
      offline: request.offline ?? false,
      // kilnd itself would ask a server that only this host reaches.
      allowHost: request.allowHost === true && engine.owner === undefined,
      signal,
      onProgress: hooks.onSourceProgress,
    }),
  );
  const name = await imageName(engine, request, recipe);
  await using image = await timeline.measure('image', () =>
    openImage(engine, name, { signal, onProgress: hooks.onImageProgress }),
  );
  const run = sandboxRequest(request, recipe, { sources, binds, image: image.manifest.id });
  const plan = planRun(engine, run, image);
  const collect = await collectorFor(run);
  const sandbox = await timeline.measure('sandbox', () =>
    PlannedSandbox.open(engine, plan, { signal, samples: timeline.samples }),
  );
  let kept = false;
  try {
    signal.throwIfAborted();
    const warnings: ArtifactWarning[] = [];
    const warn = (warning: ArtifactWarning) => {
      warnings.push(warning);
      hooks.onWarning(warning);
    };
    const recipeSandbox = new RecipeSandbox(plan, image.manifest, sandbox);
    if (sources.length > 0) {
      await timeline.measure('copy-in', () => recipeSandbox.fill(sources, warn, signal));
    }
    const work = new Work(
      run.time,
      recipe,
      recipeSandbox,
      session,
      { ...hooks, onOutput },
      signal,
      request.host,
    );
    const { end, failedStep } = await work.run(timeline);
    const egress = await sandbox.closeEgress();
    const usage = sandbox.usage();
    const limitHit = sandbox.limitHit(end, usage);
    const { collection, failure } = await timeline.measure('artifacts', () =>
      collect(sandbox, recipeSandbox.workdir, warn, undefined),
    );
    if (request.keepSeconds !== undefined && failedStep !== undefined) {
      await recipeSandbox.keep(request.keepSeconds);
      kept = true;
    }
    if (recipeSandbox.measured === undefined)
      throw new KilnError('E_INTERNAL', 'no command was measured');
    return {
      sandbox: sandbox.id,
      image: { id: image.manifest.id, name: image.manifest.name },
      ...timeline.course,
      end,
      limitHit,
      usage,
      measured: { ...recipeSandbox.measured, limits: sandbox.limits() },
      collection,
      // After a failed step, none of the artifacts is missed.
      failure: failedStep?.error ?? failure,
      warnings,
      recipe,
      sources,
      failedStep,
      ...defined({ egress }),
      kept,
      request: run,
    };
  } finally {
    if (!kept) await timeline.measure('destroy', () => sandbox.close());
  }
}

interface LoadedRecipe extends AsyncDisposable {
  readonly recipe: BuildRecipe;
  /** Of a recipe that is a program. */
  readonly session: ScriptSession | undefined;
}

async function load(
  request: RecipeRequest,
  onLog: (chunk: Buffer) => void,
  signal: AbortSignal,
): Promise<LoadedRecipe> {
  const { path, parameters = {}, host } = request;
  if (!isScript(path)) {
    const recipe = await loadBuildRecipe(path);
    return { recipe, session: undefined, [Symbol.asyncDispose]: async () => undefined };
  }
  const session = new ScriptSession({
    path,
    folder: folderOf(request),
    parameters,
    hostCwd: host?.cwd,
    signal,
    onLog,
  });
  try {
    const recipe = checkScriptRecipe(path, await session.recipe);
    return { recipe, session, [Symbol.asyncDispose]: () => session[Symbol.asyncDispose]() };
  } catch (error) {
    await session[Symbol.asyncDispose]();
    throw error;
  }
}

function folderOf({ path, folder = hostFolder(dirname(path)) }: RecipeRequest): RecipeFolder {
  return folder;
}

/** The image as the command line would name it; a path is relative to the recipe. */
/**
 * An image recipe may put any file of the host into the image: whoever runs kiln has to name it, unless
 * it is one of kiln's own. @throws KilnError E_HOST_NOT_ALLOWED
 */
async function imageName(
  { paths, owner, cwd }: Engine,
  { image, path, allowHost }: RecipeRequest,
  recipe: BuildRecipe,
): Promise<string> {
  if (image !== undefined) return image;
  const name = recipe.image.startsWith('.') ? join(dirname(path), recipe.image) : recipe.image;
  if (allowHost === true) return name;
  const named = await resolveImage({ paths, owner }, name, cwd());
  if (named.kind === 'image' || isOwnRecipe(named.path)) return name;
  throw new KilnError(
    'E_HOST_NOT_ALLOWED',
    `${path} asks for an image of ${named.path}, which may put files of the host into it`,
    { hint: `read that file; if you trust it, say so with -r ${named.path}` },
  );
}

/** The steps of one recipe. */
class Work {
  readonly #time: TimeLimits;
  readonly #recipe: BuildRecipe;
  readonly #sandbox: RecipeSandbox;
  readonly #session: ScriptSession | undefined;
  readonly #hooks: RecipeHooks;
  readonly #signal: AbortSignal;
  readonly #host: StepContext['host'];

  constructor(
    time: TimeLimits,
    recipe: BuildRecipe,
    sandbox: RecipeSandbox,
    session: ScriptSession | undefined,
    hooks: RecipeHooks,
    signal: AbortSignal,
    host: StepContext['host'],
  ) {
    this.#time = time;
    this.#recipe = recipe;
    this.#sandbox = sandbox;
    this.#session = session;
    this.#hooks = hooks;
    this.#signal = signal;
    this.#host = host;
  }

  /** Runs the steps up to the first that fails. */
  async run(
    timeline: Timeline,
  ): Promise<{ readonly end: CommandEnd; readonly failedStep: FailedStep | undefined }> {
    const { onOutput, onStep } = this.#hooks;
    const shell = await this.#sandbox.findShell();
    const context = {
      sandbox: this.#sandbox,
      shell,
      session: this.#session,
      onOutput,
      signal: this.#signal,
      host: this.#host,
    };
    const steps = stepsOf(this.#recipe);
    const begun = performance.now();
    for (const [index, step] of steps.entries()) {
      const { name } = step;
      const event = { name, number: index + 1, count: steps.length };
      onStep?.({ ...event, event: 'start' });
      const start = performance.now();
      const limits = this.#limits(step.timeout, performance.now() - begun);
      const { failure, ...end } = await timeline.measure(`step ${name}`, () =>
        runStep(step, index, limits, context),
      );
      const milliseconds = performance.now() - start;
      onStep?.({ ...event, event: failure === undefined ? 'finish' : 'fail', milliseconds });
      if (failure !== undefined) return { end, failedStep: failure };
    }
    const end = { exitCode: 0, signal: null, timeLimit: null };
    return { end, failedStep: undefined };
  }

  /** What a step may take: its own time-out, and what is left of that for all. */
  #limits(own: number | undefined, spent: number): TimeLimits {
    const { timeout, stallTimeout } = this.#time;
    const left = timeout === undefined ? undefined : Math.max(1, timeout - spent);
    const shortest = Math.min(own ?? Number.POSITIVE_INFINITY, left ?? Number.POSITIVE_INFINITY);
    return {
      ...(Number.isFinite(shortest) ? { timeout: shortest } : {}),
      stallTimeout,
    };
  }
}
