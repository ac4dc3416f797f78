import { isKilnCode, KilnError } from '../../errors.ts';
import { below } from '../../host/files/held.ts';
import { formatDependency } from '../../packages/rpm/dependency.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import { readRpms } from '../../packages/rpm/read.ts';
import type { BuildJob } from './build-job.ts';
import { BuildSandbox } from './build-sandbox.ts';
import type { BuildBase } from './buildroot/base.ts';
import { buildRepositories, openLayer, solveLayer } from './buildroot/layer.ts';
import { BUILD_HOME } from './commands.ts';
import { BuildFailure } from './outcome/outcome.ts';
import type { BuiltPackage } from './outcome/report.ts';

const PACKAGES = `${BUILD_HOME}/packages`;

/**
 * Installs all built packages at once in a fresh sandbox of the base image and of their requirements. The image's
 * own rpm judges dependencies, conflicts and scriptlets. It is not the way of jobs (`inSandbox()`): the sandbox is within
 * one phase of a build, and is never kept, since there is nothing to resume in it.
 * @throws BuildFailure E_BUILD_POSTINSTALL; E_SOLVER_PROBLEM and what making images throws
 */
export async function checkInstall(
  job: BuildJob,
  base: BuildBase,
  built: readonly BuiltPackage[],
): Promise<void> {
  const { engine, request, onProgress, signal } = job;
  const context = { engine, base, offline: request.offline, onProgress, signal };
  await job.phase('postinstall', async () => {
    const paths = built.map(({ file }) => below(request.resultDirectory, file));
    const requires = await neededFromOthers(paths, signal);
    const set = await buildRepositories(context, request);
    const layer = await solveLayer(set, context, { requires, additionalPackages: [] }).catch(
      (error: unknown) => {
        if (!isKilnCode(error, 'E_SOLVER_PROBLEM')) throw error;
        const what = 'the built packages require something that no repository has';
        throw new KilnError('E_BUILD_POSTINSTALL', what, {
          cause: error,
          hint: 'name a repository that has it with --addrepo',
        });
      },
    );
    await using image = await openLayer(context, layer);
    const opening = { ...job.opening('postinstall'), image, installer: true };
    await using sandbox = await BuildSandbox.open(opening);
    await using _egress = { [Symbol.asyncDispose]: () => job.closeEgress(sandbox) };
    const items = paths.map((source) => ({ source, target: `${PACKAGES}/` }));
    await sandbox.sandbox.tree.copyIn(items, job.warn, signal);
    const end = await sandbox.run(installCommand(), job.command('root.log'));
    // rpm warns of scriptlets that failed, and calls the transaction a success.
    for (const line of end.output.lines().filter((it) => FAILED_SCRIPTLET.test(it))) {
      job.warn({ code: 'scriptlet', message: line.replace(/^(?:warning|error): /, '') });
    }
    if (end.exitCode === 0) return;
    const what = 'the built packages cannot be installed';
    const hint = 'root.log has all that rpm said';
    throw new BuildFailure('E_BUILD_POSTINSTALL', what, end, hint);
  });
}

function installCommand(): string[] {
  const script = `exec 2>&1; cd ${PACKAGES} && exec rpm -Uv --replacepkgs --oldpackage --nosignature --define '__transaction_unshare %{nil}' *.rpm`;
  return ['/bin/sh', '-c', script];
}

/** As rpm says it: `warning: %post(hello-1-1.noarch) scriptlet failed, exit status 1`. */
const FAILED_SCRIPTLET = /^(?:warning|error): %\w+\(.*\) scriptlet failed, /;

async function neededFromOthers(paths: readonly string[], signal: AbortSignal): Promise<string[]> {
  const packages: RpmPackage[] = [];
  for await (const result of readRpms(paths, { signal })) {
    if (result.error !== undefined) throw result.error;
    packages.push(result.package);
  }
  const provided = new Set(
    packages.flatMap(({ dependencies, files }) => [
      ...dependencies.provides.map(({ name }) => name),
      ...files.map(({ path }) => path),
    ]),
  );
  const needed = packages
    .flatMap(({ dependencies }) => dependencies.requires)
    .filter(({ name }) => !name.startsWith('rpmlib(') && !provided.has(name))
    // A rich dependency on one of the packages themselves.
    .filter(({ name }) => !(name.startsWith('(') && words(name).some((it) => provided.has(it))))
    .map(formatDependency);
  return [...new Set(needed)].sort();
}

function words(richDependency: string): string[] {
  return richDependency.split(/[\s()]+/);
}
