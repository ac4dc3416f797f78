import { basename } from 'node:path';
import { type Command, Option } from 'commander';
import { buildPackage } from '../../jobs/rpmbuild/build.ts';
import type { BuildHooks, BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/result.ts';
import type { BuildRequest } from '../../jobs/rpmbuild/request.ts';
import { resumeBuild } from '../../jobs/rpmbuild/resume.ts';
import { verifyBuild } from '../../jobs/verify/verify.ts';
import { findSandbox } from '../../sandbox/domain/find-sandbox.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { Caller } from '../caller/caller.ts';
import { listenForInterruption } from '../caller/interruption.ts';
import { addDetachOptions, type DetachOptions, detach } from '../job/detach.ts';
import { EqualsCommand } from '../options/optional-value.ts';
import { printJson } from '../output/print.ts';
import { addChainOptions, CHAIN_EXAMPLES, type ChainOptions } from './build-chain-options.ts';
import { buildMode, refuseUnused } from './build-modes.ts';
import { addBuildOptions, type BuildOptions } from './build-options.ts';
import { BuildOutput } from './build-output.ts';
import { addRecipeOptions, RECIPE_EXAMPLES, type RecipeOptions } from './build-recipe-options.ts';
import { buildRequest, resumedRequest } from './build-request.ts';

const EXAMPLES = `
Exit status: 0 built; 1 the build failed; 3 the source package or spec is wrong; 4 a package that
the build requires is missing; 5 --postinstall or --verify failed; 124 the time limit was reached;
125 kiln failed; 130 interrupted.

Examples:
  kiln build -r debian-build hello-2.12-1.src.rpm
  kiln build -r debian-build --spec hello.spec --sources . --resultdir out
  kiln build -r debian-build --with tests -D 'vendor Me' --cache ccache:2G hello-2.12-1.src.rpm
  kiln build -r debian-build --sign-key sign.asc hello-2.12-1.src.rpm
  kiln build -r debian-build --keep hello-2.12-1.src.rpm; kiln shell 3fa9c1d2e4
  kiln build --lock out/lock.json --offline hello-2.12-1.src.rpm`;

type AllOptions = BuildOptions & RecipeOptions & ChainOptions & DetachOptions;

/** `kiln build`. */
export function command(caller: Caller): Command {
  const it = new EqualsCommand('build')
    .description('Build RPM packages, or what a recipe describes, in a new sandbox.')
    .usage('[options] (SRPM | --spec SPEC [--sources DIR] | RECIPE | --chain SRPM…)')
    .argument('[source...]', 'a source package, or the name or path of a recipe (.yaml, .ts)');
  addDetachOptions(addChainOptions(addRecipeOptions(addBuildOptions(it, caller), caller)));
  return it
    .addOption(new Option('--json', 'print the result as JSON, as the last line of stderr'))
    .addHelpText('after', EXAMPLES + RECIPE_EXAMPLES + CHAIN_EXAMPLES)
    .action(async (sources: string[], given: AllOptions) => {
      const [source] = sources;
      const mode = buildMode(source, given);
      refuseUnused(mode, it);
      const { options, begin } = await detach(given, it, caller);
      if (mode === 'chain' && options.farm === true) {
        begin();
        const { runFarmChain } = await import('../farm/chain.ts');
        await runFarmChain(sources, options, it, caller);
        return;
      }
      if (mode === 'chain') {
        const { runChain } = await import('./build-chain.ts');
        await runChain(sources, options, it, caller, begin);
        return;
      }
      if (sources.length > 1) it.error('kiln: to build several source packages, give --chain');
      if (mode === 'schema' || mode === 'recipe') {
        const { buildRecipe, printRecipeSchema } = await import('./build-recipe.ts');
        // Recipes name their image, so KILN_IMAGE is ignored.
        const isGiven = it.getOptionValueSource('image') === 'cli';
        const { image: _default, ...others } = options;
        const wanted = isGiven ? options : others;
        if (mode === 'schema') printRecipeSchema(caller);
        else await buildRecipe(source ?? '', wanted, caller, begin);
      } else await build(source, options, it, caller, begin);
    });
}

/** `id` may be the beginning of an id. */
async function resume(
  engine: Engine,
  id: string,
  overrides: Partial<BuildRequest>,
  hooks: BuildHooks,
): Promise<BuildReport> {
  const sandbox = await findSandbox(engine, id);
  return await resumeBuild(engine, sandbox.id, overrides, hooks);
}

function buildOnce(
  engine: Engine,
  request: BuildRequest,
  { verify, vary }: BuildOptions,
  hooks: BuildHooks,
): Promise<BuildReport> {
  return verify === true
    ? verifyBuild(engine, request, hooks, vary)
    : buildPackage(engine, request, hooks);
}

async function build(
  source: string | undefined,
  options: BuildOptions,
  it: Command,
  caller: Caller,
  begin: () => void,
): Promise<void> {
  await using engine = caller.openEngine({ hurry: true });
  using interruption = listenForInterruption(caller);
  const shown = options.spec ?? source ?? options.resume ?? '';
  const output = new BuildOutput(
    { quiet: options.quiet === true, ci: options.ci, source: basename(shown), begin },
    caller,
  );
  const hooks = { ...output.hooks, signal: interruption.signal, samples: options.samples };
  const report =
    options.resume === undefined
      ? await buildOnce(engine, buildRequest(source, options, it, caller), options, hooks)
      : await resume(engine, options.resume, resumedRequest(source, options, it), hooks);
  await output.finish(report);
  if (options.json === true) {
    printJson(caller.stderr, resultOfBuild(report));
  }
  caller.exitStatus = report.exitStatus;
}
