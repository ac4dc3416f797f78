import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode } from '../../errors.ts';
import { resolveImage } from '../../image/find.ts';
import { imageFacts } from '../../image/store/manifest.ts';
import type { PackageSigner } from '../../packages/rpm/signature/signing-key.ts';
import { allEnds, awaitedLater } from '../../promise.ts';
import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import type { BuildJob } from './build-job.ts';
import { type BuildBase, openBase, openLockedBase } from './buildroot/base.ts';
import { Caches } from './buildroot/caches.ts';
import { NO_LAYER } from './buildroot/layer.ts';
import {
  readBuildLock,
  writeHardware,
  writeInstalled,
  writeLocks,
} from './buildroot/root-files.ts';
import { readInput } from './input.ts';
import { collected } from './outcome/collect.ts';
import { reported } from './outcome/finish.ts';
import type { BuildHooks, BuildReport, Built, Steps } from './outcome/report.ts';
import { checkInstall } from './postinstall.ts';
import { type PreparedBuild, prepareBuild } from './prepare.ts';
import { packageSigner, signStep } from './provenance/sign.ts';
import { signingKey } from './provenance/write.ts';
import type { BuildRequest } from './request.ts';
import { runRpmbuild } from './rpmbuild.ts';

/**
 * Builds one package in a sandbox of its own, and leaves nothing behind but its result directory. It does not
 * throw for a failure of the build or of kiln, or for an aborted signal: the report has it.
 * @param verify looks at what was built, before that is signed
 */
export async function buildPackage(
  engine: Engine,
  request: BuildRequest,
  hooks: BuildHooks = {},
  verify?: (job: BuildJob, built: Built) => Steps,
): Promise<BuildReport> {
  return await reported(engine, request, hooks, async function* (job) {
    // A key that cannot sign is found here, before hours of building.
    await signingKey(request);
    const signer = await packageSigner(engine, request);
    yield* job.whole(build(job, signer, verify));
  });
}

/** For chains: a sandbox that was killed tells nothing of its package, which is built once more. */
export async function againIfKilled(
  { signal, onWarning }: BuildHooks,
  attempt: () => Promise<BuildReport>,
): Promise<BuildReport> {
  const report = await attempt();
  if (!isKilnCode(report.failure, 'E_SANDBOX_GONE') || signal?.aborted === true) return report;
  const message = `${report.name}: its sandbox was killed, so it is built once more`;
  onWarning?.({ code: 'killed', message });
  return await attempt();
}

async function* build(
  job: BuildJob,
  signer: PackageSigner | undefined,
  verify: Parameters<typeof buildPackage>[3],
): Steps {
  const { engine, request, signal } = job;
  const lock = request.lock && (await readBuildLock(engine, request.lock));
  const imageLock = lock?.image ?? request.imageLock;
  // A missing image is found before a long source is read.
  if (imageLock === undefined) await resolveImage(engine, request.image, engine.cwd());
  const input = await job.phase('input', () => readInput(request.source, engine.paths, signal));
  yield { name: input.name, sourceDigest: input.digest };
  await using base = await job.phase('image', () => takeBase(job, imageLock));
  const { id, name, environment } = base.image.manifest;
  yield { base: { id, name } };
  await using caches = await Caches.open(job);
  const isPrepared = request.isPrepared === true || request.scratch?.fresh === false;
  const mustSolve = lock === undefined && !isPrepared;
  const options = {
    base,
    input,
    binds: [...caches.binds, ...(request.binds ?? [])],
    env: { ...caches.environment(request.environment ?? environment), ...environmentOf(request) },
    topDirectory: request.surroundings?.topDirectory,
    layer: mustSolve ? undefined : { ...NO_LAYER, lock: lock?.layer ?? null },
    sourceOnly: request.stopAfter === 'srpm',
  };
  const built = yield* prepareBuild(job, options, async function* (prepared) {
    const { sandbox, image, requires } = prepared;
    yield {
      image: imageFacts(image.manifest),
      buildRequires: requires,
      sandbox: sandbox.sandbox.id,
    };
    caches.lookAt(sandbox);
    return yield* collected(job, sandbox, rpmbuild(job, base, prepared));
  });
  if (request.postinstall === true && built.packages.length > 0) {
    await checkInstall(job, base, built.packages);
  }
  if (verify !== undefined && request.stopAfter === undefined) {
    try {
      yield* verify(job, built);
    } catch (error) {
      job.timeline.fail('verify');
      throw error;
    }
  }
  yield await signStep(job, signer, built);
}

function environmentOf({ surroundings, cpus }: BuildRequest): Record<string, string> {
  const processors = surroundings?.processors ?? (cpus && Math.ceil(cpus));
  return {
    // A limit on time is nothing that a build can see, and it would start a job for each processor.
    ...(processors === undefined ? {} : { RPM_BUILD_NCPUS: String(processors) }),
    ...defined({ TZ: surroundings?.timeZone }),
  };
}

function takeBase(job: BuildJob, lock: Parameters<typeof openLockedBase>[1] | undefined) {
  const { engine, request, onProgress, signal } = job;
  const { update = false, offline } = request;
  const options = { update, offline, onProgress, signal };
  return lock === undefined
    ? openBase(engine, request.image, options)
    : openLockedBase(engine, lock, options);
}

/** Builds, unless the request stops before, and meanwhile describes what it is built in. */
async function* rpmbuild(job: BuildJob, base: BuildBase, prepared: PreparedBuild): Steps {
  await writeInstalled(job, base, prepared);
  const building: Promise<CommandEnd | undefined> = awaitedLater(
    job.request.stopAfter === undefined
      ? runRpmbuild(job, prepared.sandbox, prepared)
      : Promise.resolve(undefined),
  );
  const describing = awaitedLater(
    Promise.all([writeHardware(job), writeLocks(job, base, prepared)]).then(() => undefined),
  );
  describing.catch((error) => job.abort(error));
  const [end] = await allEnds([building, describing]);
  yield { end };
}
