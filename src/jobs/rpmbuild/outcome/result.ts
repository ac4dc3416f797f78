import { KILN_VERSION } from '../../../host/state/paths.ts';
import { digestOf } from '../../../result/digest.ts';
import type { Result } from '../../../result/schema.ts';
import { failureOf, measuredPolicy, resourcesOf, resultOfCourse } from '../../run/result.ts';
import type { BuildRequest } from '../request.ts';
import type { BuildReport, BuiltPackage } from './report.ts';

/** result.json of a build, however it ended. */
export function resultOfBuild(report: BuildReport): Result {
  const { request, failure, failedPhase, end, image, measured } = report;
  return {
    ...resultOfCourse(report),
    kiln: KILN_VERSION,
    id: report.sandbox ?? null,
    exitStatus: report.exitStatus,
    exit: exitOf(end),
    limitHit: report.limitHit,
    failure:
      failure === undefined ? null : failureOf(failure, failedPhase ?? 'input', report.lastLines),
    request: { ...request },
    planDigest: digestOf([planOf(request), image?.id]),
    image: image === undefined ? null : { ...image },
    policy: measured === undefined ? null : measuredPolicy(measured),
    ...(report.egress.length === 0 ? {} : { egress: [...report.egress] }),
    resources: resourcesOf(report.usage),
    artifacts: [...report.artifacts],
    warnings: [...report.warnings],
    build: {
      name: report.name,
      base: report.base === undefined ? null : { ...report.base },
      buildRequires: [...report.buildRequires],
      packages: report.packages.map(packageOf),
      sourcePackage: report.sourcePackage === undefined ? null : packageOf(report.sourcePackage),
      kept: report.kept,
      ...(report.differences === undefined
        ? {}
        : {
            differences: report.differences.map(({ detail, ...difference }) => ({
              ...difference,
              ...(detail === undefined ? {} : { detail: [...detail] }),
            })),
          }),
    },
  };
}

function exitOf(end: BuildReport['end']): Result['exit'] {
  if (end === undefined) return null;
  return end.signal === null ? { code: end.exitCode ?? 0 } : { signal: end.signal };
}

function packageOf({ file, nevra, sha256, size }: BuiltPackage) {
  return { file, nevra, sha256, size };
}

/** The part of a request that decides what comes out, not where it goes. */
function planOf(request: BuildRequest): Partial<BuildRequest> {
  const { resultDirectory: _directory, caller: _caller, keepSeconds: _keep, ...plan } = request;
  return plan;
}
