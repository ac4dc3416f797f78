import type { Artifact } from '../artifacts/manifest.ts';
import { KilnError } from '../errors.ts';
import type { CgroupUsage } from '../kernel/cgroup-usage.ts';
import { writeResult } from '../result/write.ts';
import type { Engine } from '../sandbox/open.ts';
import { type BuildBase, openBase, openLockedBase } from './base.ts';
import type { BuildCommandEnd } from './box.ts';
import { BuildRun } from './build-run.ts';
import { Caches } from './caches.ts';
import { type CollectedPackages, collectPackages } from './collect.ts';
import { buildStatus } from './exit-status.ts';
import { readInput } from './input.ts';
import { readBuildLock } from './lock.ts';
import { BuildFailure, failedSection, whichLimit } from './outcome.ts';
import { type PreparedBuild, prepareBuild } from './prepare.ts';
import type { BuildHooks, BuildPhase, BuildReport } from './report.ts';
import type { BuildRequest } from './request.ts';
import { resultOfBuild } from './result.ts';
import { ResultFiles } from './result-files.ts';
import { writeHardware, writeInstalled, writeLocks } from './root-files.ts';
import { buildPackages, specOptions } from './rpmbuild.ts';
import { Stages } from './stages.ts';

/** What is known of a build so far: whatever ends it, the report has that much. */
interface Progress {
  name?: string;
  base?: BuildBase;
  prepared?: PreparedBuild;
  collected?: CollectedPackages;
  end?: BuildCommandEnd;
  usage?: CgroupUsage;
}

/**
 * Builds one package in a box of its own, and leaves nothing behind but its result directory: logs
 * and packages. It does not throw for what goes wrong with the build, with kiln's part of it or for
 * an aborted signal: the report tells.
 */
export async function buildPackage(
  engine: Engine,
  request: BuildRequest,
  hooks: BuildHooks = {},
): Promise<BuildReport> {
  const run = new BuildRun(engine, request, hooks);
  const progress: Progress = {};
  let failure: unknown;
  try {
    using files = await ResultFiles.open(request.resultDirectory, request.caller);
    run.logTo(files);
    await build(run, progress);
  } catch (error) {
    failure = error;
  }
  return await finish(report(run, progress, failure), request);
}

/** Writes result.json: the last thing that a build does. */
async function finish(report: BuildReport, request: BuildRequest): Promise<BuildReport> {
  if (report.failure?.code === 'E_RESULTDIR') return report;
  try {
    await writeResult(request.resultDirectory, resultOfBuild(request, report), request.caller);
    return report;
  } catch (error) {
    if (report.failure !== undefined) return report;
    const failure = asKilnError(error);
    return { ...report, failure, failedPhase: 'collect', exitStatus: buildStatus(failure) };
  }
}

async function build(run: BuildRun, progress: Progress): Promise<void> {
  const { engine, request, signal, onProgress } = run;
  const input = await run.phase('input', () => readInput(request.source, signal));
  input.name.then(
    (name) => {
      progress.name = name;
    },
    () => {
      run.failedPhase ??= 'input';
    },
  );
  const lock = request.lock === undefined ? undefined : await readBuildLock(request.lock);
  const { update = false, offline } = request;
  const options = { update, offline, onProgress, signal };
  const base = await run.phase('image', () =>
    lock === undefined
      ? openBase(engine, request.image, options)
      : openLockedBase(engine, lock.image, options),
  );
  progress.base = base;
  await using caches = await Caches.open(run);
  try {
    const prepared = await prepareBuild(run, {
      base,
      input,
      binds: caches.binds,
      env: caches.environment(base.image.manifest.environment),
      layer: lock && { lock: lock.layer, whole: false, warnings: [] },
      sourceOnly: request.stopAfter === 'srpm',
    });
    progress.prepared = prepared;
    try {
      await writeInstalled(run, prepared);
      const described = Promise.all([writeHardware(run), writeLocks(run, base, prepared)]);
      described.catch(() => undefined);
      if (request.stopAfter === undefined) await rpmbuild(run, progress, prepared);
      await described;
      await run.phase('collect', async () => {
        progress.collected = await collectPackages(run, prepared.box);
        checkOutput(request, progress.collected);
      });
    } catch (error) {
      progress.usage = prepared.box.usage();
      await prepared.close(error);
      throw error;
    }
    progress.usage = prepared.box.usage();
    await prepared.close();
  } finally {
    await base[Symbol.asyncDispose]();
  }
}

async function rpmbuild(run: BuildRun, progress: Progress, prepared: PreparedBuild): Promise<void> {
  const { request, hooks, timeline } = run;
  const { box } = prepared;
  await run.phase('build', async () => {
    const stages = new Stages(timeline, hooks.onPhase);
    const command = run.command('build.log');
    const argv = buildPackages(
      box.topDirectory,
      specOptions(request),
      request.shortCircuit,
      prepared.prepDone,
    );
    const end = await box.run(argv, {
      ...command,
      onOutput: (chunk) => {
        command.onOutput(chunk);
        stages.push(chunk);
      },
    });
    progress.end = end;
    const failed = end.exitCode !== 0;
    const limit = whichLimit(end, box.usage(), box);
    const { section } = stages;
    if (failed) run.failedPhase = stages.current ?? 'build';
    stages.end(failed);
    if (!failed && limit === null) return;
    const what = failedSection(end.lines) ?? section ?? 'rpmbuild';
    throw new BuildFailure('E_BUILD_FAILED', `${what} failed`, end, limit);
  });
}

/** A build without packages is a mistake in the spec, unless it was not to get that far. */
function checkOutput(request: BuildRequest, { packages }: CollectedPackages): void {
  const whole = request.shortCircuit === undefined || request.shortCircuit === 'binary';
  if (packages.length > 0 || request.stopAfter !== undefined || !whole) return;
  throw new KilnError('E_BUILD_OUTPUT', 'rpmbuild went well, and made no package', {
    hint: 'a spec makes a package for each %files that it has',
  });
}

function report(run: BuildRun, progress: Progress, error: unknown): BuildReport {
  const { request, timeline, warnings } = run;
  const { name, base, prepared, collected, end } = progress;
  const failure = error === undefined ? undefined : asKilnError(error);
  const failedPhase: BuildPhase | undefined = failure && (run.failedPhase ?? 'input');
  return {
    name: name ?? request.source.path.replace(/^.*\//, ''),
    exitStatus: buildStatus(failure),
    failure,
    failedPhase,
    lastLines: failure instanceof BuildFailure ? failure.lastLines : [],
    resultDirectory: request.resultDirectory,
    started: timeline.started,
    phases: timeline.phases,
    packages: collected?.packages ?? [],
    sourcePackage: collected?.sourcePackage,
    buildRequires: prepared?.requires ?? [],
    base: base && { id: base.image.manifest.id, name: base.image.manifest.name },
    image: prepared && { id: prepared.image.manifest.id, name: prepared.image.manifest.name },
    box: prepared?.box.id ?? run.kept,
    kept: run.kept !== undefined,
    end,
    limitHit: failure instanceof BuildFailure ? failure.limitHit : null,
    usage: progress.usage ?? {},
    measured: prepared?.box.measured,
    artifacts: artifactsOf(collected),
    warnings,
  };
}

function artifactsOf(collected: CollectedPackages | undefined): readonly Artifact[] {
  return collected?.collection.artifacts ?? [];
}

function asKilnError(error: unknown): KilnError {
  if (error instanceof KilnError) return error;
  return new KilnError('E_INTERNAL', error instanceof Error ? error.message : String(error), {
    cause: error,
    hint: 'this is a mistake in kiln: please report it with result.json',
  });
}
