import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import type { PackageSigner } from '../../packages/rpm/signature/signing-key.ts';
import { writeResult } from '../../report/write.ts';
import type { Engine } from '../../sandbox/open.ts';
import { packageSigner, signReport } from '../provenance/sign.ts';
import { writeProvenance } from '../provenance/write.ts';
import { buildPackage } from '../rpmbuild/build.ts';
import { buildStatus } from '../rpmbuild/outcome/exit-status.ts';
import type { BuildHooks, BuildReport, Difference } from '../rpmbuild/outcome/report.ts';
import { resultOfBuild } from '../rpmbuild/outcome/result.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { BUILD_HOME } from '../rpmbuild/rpmbuild.ts';
import { comparePackages } from './compare.ts';
import { explainContent } from './compare-content.ts';

/** How the second build's surroundings differ from the first's. */
const OTHERWISE = {
  hostname: 'another-host',
  surroundings: {
    // One processor where there are more, else two.
    processors: availableParallelism() > 1 ? 1 : 2,
    // 14 hours ahead of UTC: for most of a day, it is tomorrow there.
    timeZone: 'Pacific/Kiritimati',
  },
} as const;

/** What the second build varies only when it is asked to: distributions pin it. */
export const VARIATIONS = ['path'] as const;
export type Variation = (typeof VARIATIONS)[number];

/** The second build's %_topdir where the path varies. */
const OTHER_TOP = `${BUILD_HOME}/another/build/directory`;

/**
 * Builds a package, then builds it once more in a fresh sandbox of the same image, with another host
 * name, file system below its directory, time zone, number of processors, and in another second, and
 * with `vary` in another directory; and compares what the two made. The result directory is the first
 * build's. If they differ, that is the report's failure (E_BUILD_DIFFERS); its `differences` are set
 * whenever both were built.
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
    // This fails with the same, and says so where builds do.
    return await buildPackage(engine, request, hooks);
  }
  const { signing: _signing, ...unsigned } = request;
  const first = { ...(await buildPackage(engine, unsigned, hooks)), request };
  if (first.failure !== undefined || request.stopAfter !== undefined) return first;
  let report: BuildReport;
  try {
    report = await buildAgain(engine, first, hooks, vary);
    if (report.failure === undefined) report = await sign(report, signer, hooks);
    const result = resultOfBuild(report);
    const renamed = engine.owner?.renamed(result) ?? result;
    await writeResult(request.resultDirectory, renamed, request.caller);
    await writeProvenance(engine, report);
  } catch (error) {
    if (!(error instanceof KilnError)) throw error;
    report = failed(first, error);
  }
  return report;
}

/** Only what was built twice alike is signed. */
async function sign(
  report: BuildReport,
  signer: PackageSigner | undefined,
  hooks: BuildHooks,
): Promise<BuildReport> {
  if (signer === undefined) return report;
  try {
    return await signReport(report, signer, hooks);
  } catch (error) {
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
  // Its home is on the disk, which has no quota.
  using disk = new DiskWatch(work.path);
  const signals = [disk.signal, ...(hooks.signal === undefined ? [] : [hooks.signal])];
  await anotherSecond();
  const { keepSeconds: _keep, provenance: _provenance, signing: _signing, ...same } = request;
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
        : { lock: join(resultDirectory, 'lock.json') }),
      resultDirectory: join(work.path, 'second'),
      postinstall: false,
    },
    { ...hooks, signal: AbortSignal.any(signals) },
  );
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
  return { ...failed(first, differ(differences)), differences };
}

/** The failure, which names the first difference. */
function differ(differences: readonly Difference[]): KilnError {
  const [first] = differences;
  const what = [first?.package, first?.path, first?.what].filter(Boolean).join(': ');
  const more = differences.length === 1 ? '' : `, and ${differences.length - 1} more`;
  return new KilnError('E_BUILD_DIFFERS', `two builds of it are not the same: ${what}${more}`, {
    hint: 'result.json lists what differs under build.differences',
    details: { differences: differences.length },
  });
}

/** A clock that is read in the second build, to the second, never shows what it did in the first. */
async function anotherSecond(): Promise<void> {
  await sleep(1000 - (Date.now() % 1000));
}

function failed(first: BuildReport, failure: KilnError): BuildReport {
  return { ...first, failure, failedPhase: 'verify', exitStatus: buildStatus(failure) };
}
