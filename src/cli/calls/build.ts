import { join } from 'node:path';
import { Command } from 'commander';
import type { BuildParameters, BuildReply } from '../../api/io-kiln.ts';
import { writeText } from '../../artifacts/staging.ts';
import { KilnError } from '../../errors.ts';
import { buildChain } from '../../jobs/chain/chain.ts';
import { chainJson } from '../../jobs/chain/json.ts';
import { findBuildRecipe, resultOfRecipe } from '../../jobs/recipe/request.ts';
import { runRecipe } from '../../jobs/recipe/run-recipe.ts';
import { buildPackage } from '../../jobs/rpmbuild/build.ts';
import type { BuildHooks } from '../../jobs/rpmbuild/outcome/report.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/result.ts';
import { verifyBuild } from '../../jobs/verify/verify.ts';
import { writeResult } from '../../report/write.ts';
import type { Engine } from '../../sandbox/open.ts';
import { CHAIN_FILE, chainRequest } from '../rpmbuild/build-chain.ts';
import { addChainOptions, type ChainOptions } from '../rpmbuild/build-chain-options.ts';
import { buildMode, refuseUnused } from '../rpmbuild/build-modes.ts';
import { addBuildOptions, type BuildOptions } from '../rpmbuild/build-options.ts';
import { recipeRequest, recipeStatus } from '../rpmbuild/build-recipe.ts';
import { addRecipeOptions, type RecipeOptions } from '../rpmbuild/build-recipe-options.ts';
import { buildRequest } from '../rpmbuild/build-request.ts';
import type { Answer, CallContext } from './context.ts';
import { hostPath, OptionSetter, time } from './options.ts';
import { failureOf } from './run.ts';

type Options = BuildOptions & ChainOptions & RecipeOptions;

/** Builds what `sources` name, as `kiln build` does. */
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
  await using engine = context.openEngine();
  const job = { engine, options, command, context };
  if (mode === 'chain') return await chain(parameters.sources, job);
  if (mode === 'recipe') return await recipe(source, job);
  return await packages(source, job);
};

/** What a build uses. */
interface Job {
  readonly engine: Engine;
  readonly options: Options;
  readonly command: Command;
  readonly context: CallContext;
}

function optionsOf(
  parameters: BuildParameters,
  { caller }: CallContext,
): Pick<Job, 'options' | 'command'> {
  const command = addChainOptions(
    addRecipeOptions(addBuildOptions(new Command('build'), caller), caller),
  );
  const { sources, sourceDirectory, resultDirectory, timeout, stallTimeout, keep, ...others } =
    parameters;
  const {
    defines,
    networkPhases,
    packages,
    repositories,
    caches,
    parameters: given,
    ...same
  } = others;
  new OptionSetter(command).set({
    ...same,
    chain: sources.length > 1,
    sources: hostPath('sourceDirectory', sourceDirectory),
    resultdir: hostPath('resultDirectory', resultDirectory),
    define: defines,
    enableNetwork: networkPhases?.join(','),
    additionalPackage: packages,
    addrepo: repositories,
    cache: caches,
    timeout: time(timeout),
    stallTimeout: time(stallTimeout),
    keep: time(keep),
    lock: hostPath('lock', same.lock),
    signKey: hostPath('signKey', same.signKey),
    signPassphraseFile: hostPath('signPassphraseFile', same.signPassphraseFile),
    provenanceKey: hostPath('provenanceKey', same.provenanceKey),
    param: Object.entries(given ?? {}).map(([name, value]) => `${name}=${value}`),
  });
  return { options: command.opts<Options>(), command };
}

async function packages(
  source: string,
  { engine, options, command, context }: Job,
): Promise<BuildReply> {
  const request = buildRequest(hostPath('sources', source), options, command, context.caller);
  const build = options.verify === true ? verifyBuild : buildPackage;
  const report = await build(engine, request, { ...hooksOf(context), signal: context.call.signal });
  const { failure, sourcePackage, exitStatus } = report;
  const made = sourcePackage === undefined ? report.packages : [sourcePackage, ...report.packages];
  return {
    result: {
      exitStatus,
      ...(failure === undefined ? {} : { failure: failureOf(failure) }),
      files: made.map(({ file }) => file),
      report: { ...resultOfBuild(report) },
    },
  };
}

async function recipe(name: string, { engine, options, context }: Job): Promise<BuildReply> {
  const { call, caller, onProgress } = context;
  const request = recipeRequest(await findBuildRecipe(name, '/'), options, caller);
  const report = await runRecipe(engine, request, {
    signal: call.signal,
    onImageProgress: onProgress,
    onSourceProgress: onProgress,
    onWarning: ({ message }) => context.warn(message),
    onOutput: (chunk) => {
      // A slow reader need not get all of it.
      if (call.hasRoom) call.reply({ output: chunk.toString('base64') });
    },
    onStep: ({ event, name: phase }) => {
      if (event === 'start') call.reply({ phase });
    },
  });
  const { failure, collection } = report;
  const exitStatus = recipeStatus(report);
  const result = resultOfRecipe(report, exitStatus);
  await writeResult(options.resultdir, result, request.caller);
  return {
    result: {
      exitStatus,
      ...(failure === undefined ? {} : { failure: failureOf(failure) }),
      files: (collection?.artifacts ?? []).flatMap(({ path, type }) =>
        type === 'file' ? [path] : [],
      ),
      report: { ...result },
    },
  };
}

async function chain(
  sources: readonly string[],
  { engine, options, command, context }: Job,
): Promise<BuildReply> {
  const { call, onProgress } = context;
  const paths = sources.map((source) => hostPath('sources', source));
  const request = chainRequest(paths, options, command, context.caller);
  const report = await buildChain(engine, request, {
    signal: call.signal,
    onImageProgress: onProgress,
    onMember: ({ name, state }) => call.reply({ member: { name, state } }),
    buildHooks: () => ({
      onImageProgress: onProgress,
      onWarning: ({ message }) => context.warn(message),
    }),
  });
  const { failure, exitStatus, members } = report;
  const json = chainJson(request, report);
  const text = `${JSON.stringify(json, undefined, 2)}\n`;
  await writeText(request.resultDirectory, CHAIN_FILE, text, request.build.caller);
  return {
    result: {
      exitStatus,
      ...(failure === undefined ? {} : { failure: failureOf(failure) }),
      files: members.flatMap(({ name, packages: made }) =>
        made.map(({ file }) => join(name, file)),
      ),
      report: json,
    },
  };
}

function hooksOf({ call, onProgress, warn }: CallContext): BuildHooks {
  return {
    onImageProgress: onProgress,
    onWarning: ({ message }) => warn(message),
    onPhase: (phase, event) => {
      if (event === 'start') call.reply({ phase });
    },
    onOutput: (log, chunk) => {
      // The log has all of it.
      if (log === 'build.log' && call.hasRoom) call.reply({ output: chunk.toString('base64') });
    },
  };
}
