import { basename } from 'node:path';
import { defined } from '../../../defined.ts';
import { asKilnError } from '../../../host/calls/system-error.ts';
import { KILN_VERSION } from '../../../host/state/paths.ts';
import { digestOf } from '../../../image/key.ts';
import { writeResult } from '../../../report/write.ts';
import type { Result } from '../../../result/schema.ts';
import { writeProvenance } from '../../provenance/write.ts';
import {
  exitOf,
  failureOf,
  measuredPolicy,
  type Renamed,
  resourcesOf,
  resultOfCourse,
} from '../../run/result.ts';
import type { BuildRun } from '../build-run.ts';
import type { BuildRequest } from '../request.ts';
import { BuildFailure, buildStatus } from './outcome.ts';
import type { BuildPhase, BuildReport, BuiltPackage } from './report.ts';
import { lockResults, logLimits, ResultFiles } from './result-files.ts';

/** Does the work of a build, whose result directory no other build uses meanwhile. It does not throw. */
export async function finished(run: BuildRun, work: () => Promise<void>): Promise<BuildReport> {
  const { resultDirectory, caller } = run.request;
  let failure: unknown;
  using held = new DisposableStack();
  try {
    held.use(await lockResults(resultDirectory, caller));
    const limits = logLimits(run.engine.owner?.share.disk, run.request.logSharers);
    using files = await ResultFiles.open(resultDirectory, caller, limits);
    run.logTo(files);
    await work();
  } catch (error) {
    failure = error;
  }
  return await finish(run, failure);
}

async function finish(run: BuildRun, error: unknown): Promise<BuildReport> {
  const { request } = run;
  const report = describe(run, error);
  // It could not be opened, or is another job's.
  if (!run.isOpen) return report;
  try {
    const result = resultOfBuild(report, run.engine.renamed);
    await writeResult(request.resultDirectory, result, request.caller);
    // A part of a build may use files that a person changed since the other parts.
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

function describe(run: BuildRun, error: unknown): BuildReport {
  const { request, timeline, sandbox, collected } = run;
  const { sourceDigest, base, image, end, usage, warnings } = run;
  const failure = error === undefined ? undefined : asKilnError(error);
  const failedPhase: BuildPhase | undefined = failure && (run.failedPhase ?? 'input');
  const { lastLines, limitHit } =
    failure instanceof BuildFailure ? failure : { lastLines: [], limitHit: null };
  return {
    name: run.name ?? basename(request.source.path),
    exitStatus: buildStatus(failure),
    ...{ failure, failedPhase, lastLines, limitHit, request },
    resultDirectory: request.resultDirectory,
    ...timeline.course,
    ...{ sourceDigest, base, image, end, usage, warnings },
    packages: collected?.packages ?? [],
    sourcePackage: collected?.sourcePackage,
    buildRequires: run.requires,
    sandbox: run.kept ?? sandbox?.sandbox.id,
    kept: run.kept !== undefined,
    measured: sandbox?.sandbox.measured,
    artifacts: [...(collected?.collection.artifacts ?? []), ...run.scanned],
    egress: run.egressLog.entries(),
  };
}

export function resultOfBuild(report: BuildReport, renamed: Renamed): Result {
  const { request, failure, failedPhase, end, image, measured } = report;
  return renamed({
    ...resultOfCourse(report),
    kiln: KILN_VERSION,
    id: report.sandbox ?? null,
    exitStatus: report.exitStatus,
    exit: end === undefined ? null : exitOf(end),
    limitHit: report.limitHit,
    failure:
      failure === undefined ? null : failureOf(failure, failedPhase ?? 'input', report.lastLines),
    request: withoutLock(request),
    planDigest: digestOf([renamed(planOf(request)), image?.id]),
    image: image ?? null,
    policy: measured === undefined ? null : measuredPolicy(measured),
    ...(report.egress.length === 0 ? {} : { egress: report.egress }),
    resources: resourcesOf(report.usage),
    artifacts: report.artifacts,
    warnings: report.warnings,
    build: {
      name: report.name,
      base: report.base ?? null,
      buildRequires: report.buildRequires,
      packages: report.packages.map(packageOf),
      sourcePackage: report.sourcePackage === undefined ? null : packageOf(report.sourcePackage),
      kept: report.kept,
      ...defined({ differences: report.differences }),
    },
  });
}

function packageOf({ file, nevra, sha256, size }: BuiltPackage) {
  return { file, nevra, sha256, size };
}

function planOf(request: BuildRequest): Partial<BuildRequest> {
  const { resultDirectory: _directory, caller: _caller, keep: _keep, ...plan } = request;
  return withoutLock(plan);
}

/** The image's id stands for its lock, which is long. Values of environment variables are in no result. */
function withoutLock({
  imageLock: _lock,
  environment: _environment,
  ...request
}: Partial<BuildRequest>): Partial<BuildRequest> {
  return request;
}
