import { asKilnError } from '../../../host/calls/system-error.ts';
import type { CgroupUsage } from '../../../host/cgroup/cgroup-usage.ts';
import { writeResult } from '../../../report/write.ts';
import type { CommandEnd } from '../../../sandbox/door/supervise.ts';
import { writeProvenance } from '../../provenance/write.ts';
import type { BuildRun } from '../build-run.ts';
import type { BuildSandbox } from '../build-sandbox.ts';
import type { CollectedPackages } from './collect.ts';
import { buildStatus } from './exit-status.ts';
import { BuildFailure } from './outcome.ts';
import type { BuildPhase, BuildReport } from './report.ts';
import { resultOfBuild } from './result.ts';

/** What is known of a build so far: whatever ends it, the report has that much. */
export interface Progress {
  name?: string;
  sourceDigest?: string;
  base?: BuildReport['base'];
  image?: BuildReport['image'];
  requires?: readonly string[];
  sandbox?: BuildSandbox;
  collected?: CollectedPackages;
  end?: CommandEnd;
  usage?: CgroupUsage;
}

/** Ends a build: makes its report of what is known and of what ended it, and writes result.json. */
export async function finish(
  run: BuildRun,
  progress: Progress,
  error: unknown,
): Promise<BuildReport> {
  const { request } = run;
  const report = describe(run, progress, error);
  if (report.failure?.code === 'E_RESULTDIR') return report;
  try {
    const result = resultOfBuild(report);
    const renamed = run.engine.owner?.renamed(result) ?? result;
    await writeResult(request.resultDirectory, renamed, request.caller);
    // Who goes on with a part of a build has changed what the other parts left.
    const whole =
      report.failure === undefined &&
      request.stopAfter === undefined &&
      request.shortCircuit === undefined;
    if (whole) await writeProvenance(run.engine, report);
    return report;
  } catch (cause) {
    if (report.failure !== undefined) return report;
    const failure = asKilnError(cause);
    return { ...report, failure, failedPhase: 'collect', exitStatus: buildStatus(failure) };
  }
}

function describe(run: BuildRun, progress: Progress, error: unknown): BuildReport {
  const { request, timeline, warnings } = run;
  const { name, base, image, sandbox, collected, end } = progress;
  const failure = error === undefined ? undefined : asKilnError(error);
  const failedPhase: BuildPhase | undefined = failure && (run.failedPhase ?? 'input');
  return {
    name: name ?? request.source.path.replace(/^.*\//, ''),
    exitStatus: buildStatus(failure),
    failure,
    failedPhase,
    lastLines: failure instanceof BuildFailure ? failure.lastLines : [],
    request,
    resultDirectory: request.resultDirectory,
    ...timeline.course,
    sourceDigest: progress.sourceDigest,
    packages: collected?.packages ?? [],
    sourcePackage: collected?.sourcePackage,
    buildRequires: progress.requires ?? [],
    base,
    image,
    sandbox: run.kept ?? sandbox?.sandbox.id,
    kept: run.kept !== undefined,
    end,
    limitHit: failure instanceof BuildFailure ? failure.limitHit : null,
    usage: progress.usage ?? {},
    measured: sandbox?.sandbox.measured,
    artifacts: collected?.collection.artifacts ?? [],
    warnings,
    egress: run.egressLog.entries(),
  };
}
