import { basename } from 'node:path';
import { defined } from '../../../defined.ts';
import type { Engine } from '../../../engine.ts';
import { isKilnCode, type KilnError } from '../../../errors.ts';
import { asKilnError } from '../../../host/calls/system-error.ts';
import { KILN_VERSION } from '../../../host/state/paths.ts';
import { digestOf } from '../../../image/key.ts';
import { BUILD } from '../../../options/build.ts';
import { toldWords } from '../../../options/row.ts';
import { writeResult } from '../../../report/write.ts';
import type { Result } from '../../../result/schema.ts';
import {
  exitOf,
  failureOf,
  measuredPolicy,
  type Renamed,
  resourcesOf,
  resultOfCourse,
} from '../../run/result.ts';
import { BuildJob } from '../build-job.ts';
import { writeProvenance } from '../provenance/write.ts';
import type { BuildRequest } from '../request.ts';
import { BuildFailure, buildStatus } from './outcome.ts';
import {
  type BuildHooks,
  type BuildReport,
  type BuiltPackage,
  NOTHING_BUILT,
  type Steps,
} from './report.ts';
import { lockResults, logLimits, ResultFiles } from './result-files.ts';

/**
 * Takes the steps of a build, whose result directory no other build uses meanwhile, and reports. It does not throw.
 * @param before what is known of the build
 */
export async function reported(
  engine: Engine,
  request: BuildRequest,
  hooks: BuildHooks,
  steps: (job: BuildJob) => Steps,
  before: Partial<BuildReport> = {},
): Promise<BuildReport> {
  const { resultDirectory, caller } = request;
  let report: BuildReport = { ...newReport(request), ...before };
  using held = new DisposableStack();
  let job: BuildJob | undefined;
  try {
    held.use(await lockResults(resultDirectory, caller));
    const limits = logLimits(engine.owner?.share.disk, request.logSharers);
    using files = await ResultFiles.open(resultDirectory, caller, limits);
    job = new BuildJob(engine, request, hooks, files);
    for await (const more of steps(job)) report = { ...report, ...more };
  } catch (error) {
    report = failed(report, asKilnError(error), job?.timeline.failed);
  }
  // It could not be opened, or is another job's.
  if (job === undefined) return report;
  const { timeline, warnings, egressLog } = job;
  report = { ...report, ...timeline.course, warnings, egress: egressLog.entries() };
  try {
    await writeResult(resultDirectory, resultOfBuild(report, engine.renamed), caller);
    // A part of a build may use files that a person changed since the other parts.
    const whole =
      (report.failure === undefined || isKilnCode(report.failure, 'E_BUILD_DIFFERS')) &&
      request.stopAfter === undefined &&
      request.shortCircuit === undefined;
    if (whole) await writeProvenance(engine, report);
    return report;
  } catch (cause) {
    return report.failure === undefined ? failed(report, asKilnError(cause), 'collect') : report;
  }
}

/** Of a build of which nothing is known yet. */
function newReport(request: BuildRequest): BuildReport {
  return {
    ...NOTHING_BUILT,
    name: basename(request.source.path),
    exitStatus: 0,
    failure: undefined,
    failedPhase: undefined,
    lastLines: [],
    limitHit: null,
    request,
    resultDirectory: request.resultDirectory,
    started: new Date(),
    phases: [],
    buildRequires: [],
    kept: false,
    usage: {},
    warnings: [],
    egress: [],
  };
}

/** @param phase in which it failed, if it had begun */
export function failed(
  report: BuildReport,
  failure: KilnError,
  failedPhase: string = 'input',
): BuildReport {
  const { lastLines, limitHit, end } = failure instanceof BuildFailure ? failure : report;
  const exitStatus = buildStatus(failure);
  return { ...report, failure, failedPhase, lastLines, limitHit, end, exitStatus };
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
    request: { ...withoutLock(request), ...toldWords(BUILD, request) },
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
      ...defined({ nvr: report.nvr, differences: report.differences }),
    },
  });
}

function packageOf({ file, nevra, sha256, size }: BuiltPackage) {
  return { file, nevra, sha256, size };
}

function planOf(request: BuildRequest): Partial<BuildRequest> {
  const { resultDirectory: _directory, caller: _caller, keep: _keep, ...plan } = request;
  return { ...withoutLock(plan), ...toldWords(BUILD, request) };
}

/** The image's id stands for its lock, which is long. Values of environment variables are in no result. */
function withoutLock({
  imageLock: _lock,
  environment: _environment,
  ...request
}: Partial<BuildRequest>): Partial<BuildRequest> {
  return request;
}
