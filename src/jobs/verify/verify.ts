import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { below, type HeldPath, ownPath } from '../../host/files/held.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import type { Variation } from '../../options/build.ts';
import { DEFAULT_DISK } from '../../sandbox/door/plan.ts';
import { buildPackage } from '../rpmbuild/build.ts';
import type { BuildJob } from '../rpmbuild/build-job.ts';
import { BUILD_HOME } from '../rpmbuild/commands.ts';
import { KILN_FAILED } from '../rpmbuild/outcome/outcome.ts';
import type {
  BuildHooks,
  BuildReport,
  Built,
  Difference,
  Steps,
} from '../rpmbuild/outcome/report.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
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
  return await buildPackage(engine, request, hooks, (job, built) => buildAgain(job, built, vary));
}

async function* buildAgain(job: BuildJob, built: Built, vary: readonly Variation[]): Steps {
  const { engine, request, hooks, signal } = job;
  await using work = await openWorkDirectory(engine.paths);
  // The home of the build is on the disk, which has no quota.
  const { disk: wanted = DEFAULT_DISK } = request;
  using disk = new DiskWatch(work.path, {
    tree: work.path,
    bytes: Math.min(wanted, engine.owner?.share.disk ?? wanted),
    who: 'the second build',
    hint: 'give more with --disk; of users, root sets users.limits.disk',
  });
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
      ...(job.warnings.some(({ code }) => code === 'no-lock')
        ? {}
        : { lock: below(request.resultDirectory, 'lock.json') }),
      resultDirectory: ownPath(join(work.path, 'second')),
      postinstall: false,
    },
    { ...hooks, signal: AbortSignal.any([disk.signal, signal]) },
  );
  if (second.failure !== undefined) {
    yield { lastLines: second.lastLines };
    if (second.exitStatus === KILN_FAILED) throw second.failure;
    const hint = `it was built with ${JSON.stringify(OTHERWISE)}`;
    const message = 'it was built once, and could not be built again';
    throw new KilnError('E_BUILD_DIFFERS', message, { cause: second.failure, hint });
  }
  const paths = (directory: HeldPath, { packages }: Built) =>
    packages.map(({ file }) => join(directory, file));
  const { differences: found, pairs } = await comparePackages(
    paths(request.resultDirectory, built),
    paths(second.resultDirectory, second),
    signal,
  );
  if (found.length === 0) return yield { differences: found };
  const differences = await explainContent(found, pairs, join(work.path, 'unpacked'), signal);
  yield { differences };
  throw differenceError(differences);
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
