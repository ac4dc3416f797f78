import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { below, ownPath } from '../../host/files/held.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import type { Variation } from '../../options/build.ts';
import type { PackageSigner } from '../../packages/rpm/signature/signing-key.ts';
import { writeResult } from '../../report/write.ts';
import { packageSigner, signBuilt } from '../provenance/sign.ts';
import { writeProvenance } from '../provenance/write.ts';
import { buildPackage } from '../rpmbuild/build.ts';
import { DEFAULT_DISK } from '../rpmbuild/build-sandbox.ts';
import { resultOfBuild } from '../rpmbuild/outcome/finish.ts';
import { buildStatus, KILN_FAILED } from '../rpmbuild/outcome/outcome.ts';
import type { BuildHooks, BuildReport, Difference } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { BUILD_HOME } from '../rpmbuild/rpmbuild.ts';
import { comparePackages, explainContent } from './compare.ts';

const OTHERWISE = {
  hostname: 'another-host',
  surroundings: {
    processors: availableParallelism() > 1 ? 1 : 2,
    // 14 hours ahead of UTC: for most of a day, it is tomorrow there.
    timeZone: 'Pacific/Kiritimati',
  },
} as const;

/** Varied only on request: distributions pin it. */
const OTHER_TOP = `${BUILD_HOME}/another/build/directory`;

/**
 * Builds a package twice in fresh sandboxes of the same image, and compares the packages. The second build has
 * another host name, file system, time zone, number of processors and second, and with `vary` another directory.
 * The result directory is the first build's. If they differ, that is the report's failure (E_BUILD_DIFFERS); its
 * `differences` are set whenever both were built.
 */
export async function verifyBuild(
  engine: Engine,
  request: BuildRequest,
  hooks: BuildHooks = {},
  vary: readonly Variation[] = [],
): Promise<BuildReport> {
  let signer: PackageSigner | undefined;
  try {
    signer = await packageSigner(engine, request);
  } catch {
    return await buildPackage(engine, request, hooks);
  }
  const { signKey: _key, ...unsigned } = request;
  const first = { ...(await buildPackage(engine, unsigned, hooks)), request };
  if (first.failure !== undefined || request.stopAfter !== undefined) return first;
  let report: BuildReport;
  try {
    report = await buildAgain(engine, first, hooks, vary);
    if (report.failure === undefined) report = await sign(report, signer, hooks);
    const result = resultOfBuild(report, engine.renamed);
    await writeResult(request.resultDirectory, result, request.caller);
    await writeProvenance(engine, report);
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    report = failed(first, error);
  }
  return report;
}

async function sign(
  report: BuildReport,
  signer: PackageSigner | undefined,
  { signal, onPhase }: BuildHooks,
): Promise<BuildReport> {
  if (signer === undefined) return report;
  const { resultDirectory: directory, request, phases } = report;
  const from = performance.now();
  onPhase?.('sign', 'start');
  try {
    const signed = await signBuilt(report, { directory, owner: request.caller, signer, signal });
    onPhase?.('sign', 'finish');
    const duration = performance.now() - from;
    const start = Date.now() - report.started.getTime() - duration;
    return { ...report, ...signed, phases: [...phases, { name: 'sign', start, duration }] };
  } catch (error) {
    onPhase?.('sign', 'fail');
    if (!(error instanceof KilnError)) throw error;
    return { ...failed(report, error), failedPhase: 'sign' };
  }
}

async function buildAgain(
  engine: Engine,
  first: BuildReport,
  hooks: BuildHooks,
  vary: readonly Variation[],
): Promise<BuildReport> {
  const { request, resultDirectory } = first;
  await using work = await openWorkDirectory(engine.paths);
  // The home of the build is on the disk, which has no quota.
  const { disk: wanted = DEFAULT_DISK } = request;
  using disk = new DiskWatch(work.path, {
    tree: work.path,
    bytes: Math.min(wanted, engine.owner?.share.disk ?? wanted),
    who: 'the second build',
    hint: 'give more with --disk; of users, root sets users.limits.disk',
  });
  const signals = hooks.signal === undefined ? [disk.signal] : [disk.signal, hooks.signal];
  // To the second, the clock never shows in the second build what it did in the first.
  await sleep(1000 - (Date.now() % 1000));
  const {
    keep: _,
    signKey: _signed,
    provenanceKey: _key,
    sourceDateEpoch: _epoch,
    ...same
  } = request;
  const second = await buildPackage(
    engine,
    {
      ...same,
      ...OTHERWISE,
      surroundings: {
        ...OTHERWISE.surroundings,
        ...(vary.includes('path') ? { topDirectory: OTHER_TOP } : {}),
        home: join(work.path, 'home'),
      },
      // A base that is known by its id only has no lock; it is the same one by its id.
      ...(first.warnings.some(({ code }) => code === 'no-lock')
        ? {}
        : { lock: below(resultDirectory, 'lock.json') }),
      resultDirectory: ownPath(join(work.path, 'second')),
      postinstall: false,
    },
    { ...hooks, signal: AbortSignal.any(signals) },
  );
  if (second.failure !== undefined && second.exitStatus === KILN_FAILED) {
    return { ...failed(first, second.failure), lastLines: second.lastLines };
  }
  if (second.failure !== undefined) {
    const hint = `it was built with ${JSON.stringify(OTHERWISE)}`;
    const message = 'it was built once, and could not be built again';
    const failure = new KilnError('E_BUILD_DIFFERS', message, { cause: second.failure, hint });
    return { ...failed(first, failure), lastLines: second.lastLines };
  }
  const { signal } = hooks;
  const paths = (report: BuildReport) =>
    report.packages.map(({ file }) => join(report.resultDirectory, file));
  const { differences: found, pairs } = await comparePackages(paths(first), paths(second), signal);
  if (found.length === 0) return { ...first, differences: found };
  const differences = await explainContent(found, pairs, join(work.path, 'unpacked'), signal);
  return { ...failed(first, differenceError(differences)), differences };
}

function differenceError(differences: readonly Difference[]): KilnError {
  const [first] = differences;
  const what = [first?.package, first?.path, first?.what].filter(Boolean).join(': ');
  const more = differences.length === 1 ? '' : `, and ${differences.length - 1} more`;
  return new KilnError('E_BUILD_DIFFERS', `two builds of it are not the same: ${what}${more}`, {
    hint: 'result.json lists what differs under build.differences',
    details: { differences: differences.length },
  });
}

function failed(first: BuildReport, failure: KilnError): BuildReport {
  return { ...first, failure, failedPhase: 'verify', exitStatus: buildStatus(failure) };
}
