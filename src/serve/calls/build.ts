import { join } from 'node:path';
import type { BuildParameters, BuildReply, BuildResult } from '../../api/io-kiln.ts';
import type { KilnCommand } from '../../cli/options/command.ts';
import { noteFailure } from '../../cli/output/errors.ts';
import { chainRequest, firstFailure, writeChain } from '../../cli/rpmbuild/build-chain.ts';
import { recipeRequest, recipeStatus } from '../../cli/rpmbuild/build-recipe.ts';
import { buildMode, buildRequest, refuseUnused } from '../../cli/rpmbuild/build-request.ts';
import { admit } from '../../cli/users/user-guard.ts';
import { isBuiltFile } from '../../cli/users/user-rules.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { type HeldPath, openedPath } from '../../host/files/held.ts';
import { buildChain } from '../../jobs/chain/chain.ts';
import { chainJson } from '../../jobs/chain/request.ts';
import { findBuildRecipe, resultOfRecipe } from '../../jobs/recipe/request.ts';
import { runRecipe } from '../../jobs/recipe/run-recipe.ts';
import { buildPackage } from '../../jobs/rpmbuild/build.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/finish.ts';
import { lockResults } from '../../jobs/rpmbuild/outcome/result-files.ts';
import { verifyBuild } from '../../jobs/verify/verify.ts';
import {
  BUILDS,
  type BuildOptions,
  type ChainOptions,
  type RecipeOptions,
} from '../../options/build.ts';
import { hostPath } from '../../options/places.ts';
import { writeResult } from '../../report/write.ts';
import type { Answer, CallContext } from './context.ts';
import { calledCommand, setOptions } from './options.ts';
import { failureOf, filesOf } from './run.ts';

type Options = BuildOptions & ChainOptions & RecipeOptions;

export const answerBuild: Answer<'Build'> = async (parameters, context) => {
  const [source] = parameters.sources;
  if (source === undefined) {
    throw new KilnError('E_ARGUMENT', 'sources: the list is empty', {
      hint: 'name a package, spec or recipe',
    });
  }
  const { options, command } = optionsOf(parameters, context);
  const mode = buildMode(source, options);
  refuseUnused(mode, command);
  const named = parameters.sources.map((one) =>
    isBuiltFile(one) ? hostPath('sources', one) : one,
  );
  const sources = await admit(command, context.caller, { words: 'build', args: named }, named);
  await using engine = context.openEngine({ allowHost: options.allowHost });
  const job = { engine, options, command, context };
  const [first = source] = sources;
  if (mode === 'chain') return await chain(sources.map(openedPath), job);
  if (mode === 'recipe') return await recipe(first, job);
  return await packages(openedPath(first), job);
};

interface Given {
  readonly options: Options;
  readonly command: KilnCommand;
}

interface Job extends Given {
  readonly engine: Engine;
  readonly context: CallContext;
}

function optionsOf(parameters: BuildParameters, { caller }: CallContext): Given {
  const command = calledCommand('build', BUILDS, caller);
  setOptions(command, BUILDS, { ...parameters, chain: parameters.sources.length > 1 });
  return { options: command.opts<Options>(), command };
}

function replyOf(
  exitStatus: number,
  failure: KilnError | undefined,
  files: readonly string[],
  report: BuildResult['report'],
  cause = failure,
): BuildReply {
  noteFailure(cause, exitStatus);
  return { result: { exitStatus, failure: failure && failureOf(failure), files, report } };
}

async function packages(
  source: HeldPath,
  { engine, options, command, context }: Job,
): Promise<BuildReply> {
  const asked = buildRequest(source, options, command, context.caller);
  const resultDirectory = await context.caller.paths.loneResults(options.resultDirectory);
  const request = { ...asked, resultDirectory };
  const build = options.verify === true ? verifyBuild : buildPackage;
  const { onOutput, ...hooks } = hooksOf(context);
  const report = await build(engine, request, {
    ...hooks,
    onPhase: (phase, event) => {
      if (event === 'start') context.call.reply({ phase });
    },
    onOutput: (log, chunk) => {
      if (log === 'build.log') onOutput(chunk);
    },
  });
  const { failure, sourcePackage, exitStatus } = report;
  const made = sourcePackage === undefined ? report.packages : [sourcePackage, ...report.packages];
  const files = made.map(({ file }) => file);
  return replyOf(exitStatus, failure, files, {
    ...resultOfBuild(report, engine.renamed),
  });
}

async function recipe(name: string, { engine, options, context }: Job): Promise<BuildReply> {
  const path = await findBuildRecipe(name, context.caller.user?.files?.folder ?? '/');
  const resultDirectory = await context.caller.paths.loneResults(options.resultDirectory);
  const request = { ...recipeRequest(path, options, context.caller), resultDirectory };
  using _lock = await lockResults(resultDirectory, request.caller);
  const report = await runRecipe(engine, request, {
    ...hooksOf(context),
    onSourceProgress: context.onProgress,
    onStep: ({ event, name: phase }) => {
      if (event === 'start') context.call.reply({ phase });
    },
  });
  const exitStatus = recipeStatus(report);
  const result = resultOfRecipe(report, exitStatus, engine.renamed);
  await writeResult(resultDirectory, result, request.caller);
  return replyOf(exitStatus, report.failure, filesOf(report.collection), { ...result });
}

async function chain(
  sources: readonly HeldPath[],
  { engine, options, command, context }: Job,
): Promise<BuildReply> {
  const { user, takeRoom, paths } = context.caller;
  const resultDirectory = await paths.loneResults(options.resultDirectory);
  const asked = {
    ...chainRequest(sources, options, command, context.caller),
    resultDirectory,
  };
  // A call counts as one sandbox: further ones need room.
  const isOne = user !== undefined && takeRoom === undefined;
  const request = isOne ? { ...asked, jobs: 1 } : asked;
  const { onOutput: _, ...hooks } = hooksOf(context);
  const report = await buildChain(engine, request, {
    ...hooks,
    onMember: ({ name, state }) => context.call.reply({ member: { name, state } }),
    takeRoom,
    buildHooks: () => hooks,
  });
  const json = chainJson(request, report);
  await writeChain(resultDirectory, json, context.caller);
  const files = report.members.flatMap(({ name, packages: made }) =>
    made.map(({ file }) => join(name, file)),
  );
  return replyOf(report.exitStatus, report.failure, files, json, firstFailure(report.members));
}

function hooksOf({ call, onProgress, warn }: CallContext) {
  return {
    signal: call.signal,
    onImageProgress: onProgress,
    onWarning: ({ message }: { readonly message: string }) => warn(message),
    onOutput: (chunk: Buffer) => {
      // A slow reader need not get all of it: the log has it.
      if (call.hasRoom) call.reply({ output: chunk.toString('base64') });
    },
  };
}
