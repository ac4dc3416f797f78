import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { checkPatterns } from '../../artifacts/collect.ts';
import { defined } from '../../defined.ts';
import { isPublicAddress, parseEgressRules } from '../../egress/rule.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { ownPath } from '../../host/files/held.ts';
import { pathsOfUser } from '../../host/state/paths.ts';
import { isImageName, resolveImage } from '../../image/find.ts';
import { openImage } from '../../image/open.ts';
import { storageLeft } from '../../image/store/user-storage.ts';
import { usualValues, valuesIn } from '../../options/row.ts';
import { GROUND, LIMITS, SANDBOX } from '../../options/sandbox.ts';
import { type BuildRecipe, checkScriptRecipe, loadBuildRecipe } from '../../recipe/build-recipe.ts';
import { hostFolder } from '../../recipe/folder.ts';
import { isTrusted } from '../../recipe/named.ts';
import { timeOf } from '../../sandbox/door/supervise.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { leaseFrom } from '../../snapshot/stack.ts';
import { LOCK, logLimits, ResultFiles } from '../rpmbuild/outcome/result-files.ts';
import { runJob } from '../run/run.ts';
import { Timeline } from '../run/timeline.ts';
import { RecipeSandbox, SOURCES } from './recipe-sandbox.ts';
import {
  askedFor,
  isScript,
  type RecipeHooks,
  type RecipeReport,
  type RecipeRequest,
} from './request.ts';
import { ScriptSession } from './script-session.ts';
import { type ReadySource, readySources } from './sources.ts';
import { runSteps } from './steps.ts';

/**
 * Builds what a recipe describes, in one sandbox, and leaves nothing behind. A step that fails is in the report:
 * `failedStep` and `end`.
 * @throws RecipeError (E_RECIPE), E_RECIPE_READ, E_RECIPE_SCRIPT, E_HOST_NOT_ALLOWED, what {@link readySources}
 * and openImage throw, what opening a sandbox throws; the signal's reason
 */
export async function runRecipe(
  engine: Engine,
  request: RecipeRequest,
  hooks: RecipeHooks,
  timeline: Timeline = new Timeline(),
): Promise<RecipeReport> {
  hooks.signal?.throwIfAborted();
  const { resultDirectory, caller } = request;
  const limits = logLimits(engine.owner?.share.disk);
  using files =
    resultDirectory === undefined
      ? undefined
      : await ResultFiles.open(resultDirectory, caller, limits, ['build.log']);
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
  const {
    path,
    folder = hostFolder(dirname(path)),
    parameters = {},
    host,
    timeout = request.usual?.timeout,
  } = request;
  const hostCwd = host?.cwd;
  await using session = isScript(path)
    ? new ScriptSession({ path, folder, parameters, hostCwd, signal, onLog: onOutput })
    : undefined;
  timeline.enter('recipe');
  const recipe =
    session === undefined
      ? await loadBuildRecipe(path)
      : checkScriptRecipe(path, await session.load(timeout));
  const binds = await request.admit(recipe);
  if (resultDirectory !== undefined) checkPatterns(recipe.artifacts);
  timeline.enter('sources');
  const sources = await readySources(recipe.sources, {
    paths: engine.owner === undefined ? engine.paths : pathsOfUser(engine.paths, engine.owner),
    largest: engine.owner?.share.disk ?? Number.POSITIVE_INFINITY,
    room: recipe.sources.length === 0 ? 0 : await storageLeft(engine.paths, engine.owner),
    folder,
    offered: request.sourceDirectory,
    offline: request.offline ?? false,
    // kilnd itself would ask a server that only this host reaches.
    allowHost: request.allowHost === true && engine.owner === undefined,
    signal,
    onProgress: hooks.onSourceProgress,
  });
  timeline.enter('image');
  const from = request.image === undefined ? recipe.fromSnapshot : undefined;
  await using image =
    from === undefined
      ? await openImage(engine, await imageName(engine, request, recipe), {
          ...{ signal, onProgress: hooks.onImageProgress },
        })
      : await leaseFrom(engine, from);
  const run = {
    ...sandboxRequest(request, recipe, sources, binds, image.manifest.id),
    argv: ['kiln build', engine.renamed(request.path)],
    ...defined({ fromSnapshot: from }),
  };
  const job = {
    request: run,
    image,
    copyIn: sources.map((source) => ({
      source: ownPath(source.path),
      target: `${SOURCES}/${source.name}`,
    })),
    hooks: {
      signal,
      warning: hooks.onWarning,
      reserved: ['build.log', 'build.log.rest.gz', LOCK],
    },
    timeline,
  };
  const report = await runJob(engine, job, async (opened, plan) => {
    const sandbox = new RecipeSandbox(plan, image.manifest, opened);
    const shell = await sandbox.findShell();
    const context = { sandbox, shell, session, onOutput, onStep: hooks.onStep, signal, host };
    const { end, failedStep } = await runSteps(recipe, timeOf(run), timeline, context);
    const usage = opened.ground.usage();
    const isKept = request.keep !== undefined && failedStep !== undefined;
    return {
      end,
      limitHit: await opened.limitHit(end, usage),
      usage,
      // The command that looked for a shell was measured, at least.
      measured: sandbox.measured!,
      kept: isKept ? sandbox.furtherCommand : undefined,
      failedStep,
    };
  });
  await report.remove();
  // After a failed step, missing artifacts are no failure of their own.
  const failure = report.failedStep?.error ?? report.failure;
  return { ...report, failure, recipe, sources, request: run };
}

/**
 * The image as the command line would name it; a path is relative to the recipe. An image recipe has kilnd ask whatever
 * server it names, so the caller has to name it, unless it is kiln's own or root's.
 * @throws KilnError E_HOST_NOT_ALLOWED
 */
async function imageName(
  engine: Engine,
  { image, path, allowHost }: RecipeRequest,
  recipe: BuildRecipe,
): Promise<string> {
  if (image !== undefined) return image;
  const { image: own = '' } = recipe;
  if (isImageName(own)) return own;
  const name = resolve(dirname(engine.renamed(path)), own);
  if (allowHost === true) return name;
  const named = await resolveImage(engine, name, '/');
  if (!('path' in named) || isTrusted(engine.paths, named.path)) return name;
  throw new KilnError(
    'E_HOST_NOT_ALLOWED',
    `${path} asks for an image of ${named.path}, which says where packages come from`,
    { hint: `read that file; if you trust it, say so with -r ${named.path}` },
  );
}

/**
 * The request of a recipe and its caller. `image` is an image's id, `binds` are the recipe's own.
 * @throws KilnError E_HOST_NOT_ALLOWED when the recipe wants of the host what the caller does not
 * allow.
 */
function sandboxRequest(
  request: RecipeRequest,
  recipe: BuildRecipe,
  sources: readonly ReadySource[],
  binds: readonly Bind[],
  image: string,
): Omit<RecipeReport['request'], 'argv'> {
  if (request.allowHost !== true) refuseHost(request.path, recipe);
  const { caller, resultDirectory, keep, allowHostWrite } = request;
  return {
    ...usualValues(SANDBOX),
    ...request.usual,
    ...recipe.sandbox,
    ...valuesIn({ ...LIMITS, ...GROUND, protection: SANDBOX.protection }, request),
    ...defined({ resultDirectory, keep, allowHostWrite }),
    // Refused above, where the caller does not allow it.
    allowHostNetwork: recipe.sandbox.network === 'host',
    binds: [...binds, ...(request.binds ?? [])],
    artifacts: recipe.artifacts,
    ...{ image, caller },
    recipe: {
      ...askedFor(request),
      sources: sources.map(({ name, sha256, bytes, from }) => ({ name, sha256, bytes, from })),
      steps: recipe.steps.map(withoutValues),
    },
  };
}

function refuseHost(path: string, { sandbox }: BuildRecipe): void {
  const wanted = [
    ...(sandbox.network === 'host' ? ['the network'] : []),
    ...parseEgressRules(sandbox.egress)
      .filter(({ host }) => isIP(host) !== 0 && !isPublicAddress(host))
      .map(({ host, ports }) => `${host} port ${ports.join(' and ')}`),
    ...sandbox.binds.map(({ source }) => source),
  ];
  if (wanted.length === 0) return;
  throw new KilnError('E_HOST_NOT_ALLOWED', `${path} asks for ${wanted.join(', ')} of the host`, {
    hint: 'read the recipe; if you trust it, confirm with --allow-host',
  });
}

/** Values of the environment may be secrets; result.json is often shown around. */
function withoutValues(step: BuildRecipe['steps'][number]): unknown {
  return typeof step === 'string' ? step : { ...step, env: Object.keys(step.env) };
}
