import type { HeldPath } from '../../host/files/held.ts';
import { buildPackage } from '../../jobs/rpmbuild/build.ts';
import { keptFiles, keysAgain, resumeBuild } from '../../jobs/rpmbuild/keep.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/finish.ts';
import type { BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import { verifyBuild } from '../../jobs/verify/verify.ts';
import {
  BUILDS,
  type BuildOptions,
  type ChainOptions,
  type RecipeOptions,
} from '../../options/build.ts';
import { MOUNT } from '../../options/mount.ts';
import { type DetachOptions, LIMITS } from '../../options/sandbox.ts';
import { findSandbox } from '../../sandbox/domain/sandbox-record.ts';
import { type Caller, listenForInterruption } from '../caller/caller.ts';
import { detach } from '../job/detach.ts';
import { KilnCommand } from '../options/command.ts';
import { exitStatusHelp } from '../options/exit-statuses.ts';
import { specPath } from '../output/ci-output.ts';
import { refuseLooseTime } from '../output/mistaken-words.ts';
import { printJson } from '../output/print.ts';
import { buildOutput } from './build-output.ts';
import { buildMode, buildRequest, refuseUnused, resumedRequest } from './build-request.ts';

const EXAMPLES = `${exitStatusHelp('kiln build')}
Examples:
  kiln build -r debian-build hello-2.12-1.src.rpm
  kiln build -r debian-build --spec hello.spec --sources . --resultdir out
  kiln build -r debian-build --with tests -D 'vendor Me' --cache ccache:2G hello-2.12-1.src.rpm
  kiln build -r debian-build --sign-key sign.asc hello-2.12-1.src.rpm
  kiln build -r debian-build --keep hello-2.12-1.src.rpm; kiln shell 3fa9c1d2e4
  kiln build --lock out/lock.json --offline hello-2.12-1.src.rpm`;

const RECIPE_EXAMPLES = `

Recipes:
  kiln build recipes/builds/hello.yaml --resultdir out
  kiln build zlib --sources ~/tarballs --offline  # one of recipes/builds
  kiln build ./release.ts --param version=1.2
  kiln build --schema                             # the JSON Schema of recipes
`;

const CHAIN_EXAMPLES = `
Packages that require each other (docs/chains.md, docs/farm.md):
  kiln build --chain -r debian-build --resultdir out a.src.rpm b.src.rpm c.src.rpm
  kiln build --chain -j 4 --continue -r debian-build --resultdir out *.src.rpm
  kiln build --chain --farm -r debian-build --resultdir out *.src.rpm

With the same --resultdir a chain continues where it stopped: a package whose inputs have not changed is not built again.`;

type AllOptions = BuildOptions & RecipeOptions & ChainOptions & DetachOptions;

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('build')
    .description(
      'Build RPM packages, or what a recipe describes, in a new sandbox. The output of rpmbuild is shown; with -q, only the end of a build that fails.',
    )
    .usage(
      [
        '[options] SRPM',
        'kiln build [options] --spec SPEC [--sources DIR]',
        'kiln build [options] RECIPE',
        'kiln build [options] --chain SRPM…',
      ].join('\n       '),
    )
    .argument('[source...]', 'a source package, or the name or path of a recipe (.yaml, .ts)');
  return it
    .rows({ ...BUILDS, mount: MOUNT }, caller)
    .addHelpText('after', EXAMPLES + RECIPE_EXAMPLES + CHAIN_EXAMPLES)
    .action(async (sources: HeldPath[], given: AllOptions) => {
      const [source] = sources;
      refuseLooseTime(given.keep, source ?? '', 'the source');
      const mode = buildMode(source, given);
      refuseUnused(mode, it);
      if (mode === 'chain' && given.farm === true) {
        const { runFarmChain } = await import('../farm/chain.ts');
        await runFarmChain(sources, given, it, caller);
        return;
      }
      const { options, begin } = await detach(given, it, caller);
      if (mode === 'chain') {
        const { runChain } = await import('./build-chain.ts');
        await runChain(sources, options, it, caller, begin);
        return;
      }
      if (sources.length > 1) it.error('kiln: to build several source packages, give --chain');
      if (mode === 'schema' || mode === 'recipe') {
        const { buildRecipe, printRecipeSchema } = await import('./build-recipe.ts');
        if (mode === 'schema') printRecipeSchema(caller);
        else await buildRecipe(source ?? '', ofRecipe(options, it), caller, begin);
      } else await build(source, options, it, caller, begin);
    });
}

const RECIPES_OWN = ['image', ...Object.keys(LIMITS)];

/** What a recipe says counts before KILN_IMAGE, which is not for recipes, and before limits of kiln.yaml. */
function ofRecipe(options: AllOptions, it: KilnCommand) {
  const isUsual = ([name]: readonly [string, unknown]) =>
    RECIPES_OWN.includes(name) && !it.isGiven(name);
  const entries = Object.entries(options);
  const chosen = Object.fromEntries(entries.filter((entry) => !isUsual(entry))) as AllOptions;
  const { image: _image, ...usual } = Object.fromEntries(entries.filter(isUsual));
  return { ...chosen, usual };
}

async function build(
  source: HeldPath | undefined,
  options: BuildOptions & { readonly allowHost?: boolean },
  it: KilnCommand,
  caller: Caller,
  begin: () => void,
): Promise<void> {
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  using interruption = listenForInterruption(caller);
  const given = options.spec ?? source ?? options.resume ?? '';
  const shown = specPath(caller.paths.renamed(given), caller);
  using output = buildOutput(
    { quiet: options.quiet === true, ci: options.ci, source: shown, begin },
    caller,
  );
  const hooks = { ...output.hooks, signal: interruption.signal, samples: options.samples };
  let report: BuildReport;
  if (options.resume !== undefined) {
    const changes = resumedRequest(source, options, it);
    const { id } = await findSandbox(engine, options.resume);
    const named = it.isGiven('resultDirectory') ? options.resultDirectory : undefined;
    // Of a user's build, what its start named means nothing now.
    const kept = caller.user === undefined ? keptFiles(engine, id, changes) : undefined;
    const open = (path: string) => caller.paths.content(path);
    const again = kept && (await keysAgain(kept, changes, open));
    const to = named ?? kept?.resultDirectory ?? options.resultDirectory;
    const resultDirectory = await caller.paths.loneResults(to);
    report = await resumeBuild(engine, id, { ...changes, ...again, resultDirectory }, hooks);
  } else {
    const asked = buildRequest(source, options, it, caller);
    const resultDirectory = await caller.paths.loneResults(options.resultDirectory);
    const request = { ...asked, resultDirectory };
    report =
      options.verify === true
        ? await verifyBuild(engine, request, hooks, options.vary)
        : await buildPackage(engine, request, hooks);
  }
  await output.finish(report);
  if (options.json === true) printJson(caller.stderr, resultOfBuild(report, engine.renamed));
  caller.exitStatus = report.exitStatus;
}
