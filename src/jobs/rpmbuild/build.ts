import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { packageSigner, signCollected } from '../provenance/sign.ts';
import { signingKey } from '../provenance/write.ts';
import { BuildRun } from './build-run.ts';
import { type BuildBase, openBase, openLockedBase } from './buildroot/base.ts';
import { Caches } from './buildroot/caches.ts';
import { NO_LAYER } from './buildroot/layer.ts';
import {
  readBuildLock,
  writeHardware,
  writeInstalled,
  writeLocks,
} from './buildroot/root-files.ts';
import { type BuildInput, readInput } from './input.ts';
import { scanRoot } from './outcome/collect.ts';
import { finished } from './outcome/finish.ts';
import type { BuildHooks, BuildReport } from './outcome/report.ts';
import { checkInstall } from './postinstall.ts';
import { type PreparedBuild, prepareBuild } from './prepare.ts';
import type { BuildRequest } from './request.ts';
import { runRpmbuild, takePackages } from './rpmbuild.ts';

/**
 * Builds one package in a sandbox of its own, and leaves nothing behind but its result directory. It does not
 * throw for a failure of the build or of kiln, or for an aborted signal: the report has it.
 */
export async function buildPackage(
  engine: Engine,
  request: BuildRequest,
  hooks: BuildHooks = {},
): Promise<BuildReport> {
  const run = new BuildRun(engine, request, hooks);
  return await finished(run, async () => {
    // A key that cannot sign is found here, before hours of building.
    await signingKey(request);
    run.signer = await packageSigner(engine, request);
    await run.whole(() => build(run));
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

async function build(run: BuildRun): Promise<void> {
  const { request } = run;
  const lock =
    request.lock === undefined ? undefined : await readBuildLock(run.engine, request.lock);
  const taken = awaitedLater(
    run.phase('image', () => takeBase(run, lock?.image ?? request.imageLock)),
  );
  const input = await lookAtInput(run, taken);
  await using base = await taken;
  run.base = { id: base.image.manifest.id, name: base.image.manifest.name };
  const { environment = base.image.manifest.environment } = request;
  await using caches = await Caches.open(run);
  const mustSolve = lock === undefined && request.scratch?.fresh !== false;
  const prepared = await prepareBuild(run, {
    base,
    input,
    binds: [...caches.binds, ...(request.binds ?? [])],
    env: { ...caches.environment(environment), ...environmentOf(request) },
    topDirectory: request.surroundings?.topDirectory,
    layer: mustSolve ? undefined : { ...NO_LAYER, lock: lock?.layer ?? null },
    sourceOnly: request.stopAfter === 'srpm',
  });
  const { sandbox, image, requires } = prepared;
  run.sandbox = sandbox;
  run.image = { id: image.manifest.id, name: image.manifest.name };
  run.requires = requires;
  try {
    caches.lookAt(sandbox);
    await inSandbox(run, base, prepared);
    run.scanned = await scanRoot(run, sandbox, false);
  } catch (error) {
    run.scanned = await scanRoot(run, sandbox, true);
    run.usage = sandbox.sandbox.usage();
    await prepared.close(error);
    throw error;
  }
  run.usage = sandbox.sandbox.usage();
  await prepared.close();
  const { packages } = run.collected ?? { packages: [] };
  if (request.postinstall === true && packages.length > 0) {
    await checkInstall(run, base, packages);
  }
  await signCollected(run);
}

async function lookAtInput(run: BuildRun, base: Promise<BuildBase>): Promise<BuildInput> {
  const { request, signal } = run;
  try {
    const input = await run.phase('input', () =>
      readInput(request.source, run.engine.paths, signal),
    );
    run.sourceDigest = input.digest;
    input.name.then(
      (name) => {
        run.name = name;
      },
      () => {
        run.failedPhase ??= 'input';
      },
    );
    return input;
  } catch (error) {
    run.abort(error);
    await base.then(
      (late) => late[Symbol.asyncDispose](),
      () => undefined,
    );
    throw error;
  }
}

function environmentOf({ surroundings, cpus }: BuildRequest): Record<string, string> {
  const processors = surroundings?.processors ?? (cpus && Math.ceil(cpus));
  return {
    // A limit on time is nothing that a build can see, and it would start a job for each processor.
    ...(processors === undefined ? {} : { RPM_BUILD_NCPUS: String(processors) }),
    ...defined({ TZ: surroundings?.timeZone }),
  };
}

function takeBase(run: BuildRun, lock: Parameters<typeof openLockedBase>[1] | undefined) {
  const { engine, request, onProgress, signal } = run;
  const { update = false, offline } = request;
  const options = { update, offline, onProgress, signal };
  return lock === undefined
    ? openBase(engine, request.image, options)
    : openLockedBase(engine, lock, options);
}

async function inSandbox(run: BuildRun, base: BuildBase, prepared: PreparedBuild): Promise<void> {
  const { sandbox } = prepared;
  await writeInstalled(run, base, prepared);
  const building =
    run.request.stopAfter === undefined
      ? awaitedLater(runRpmbuild(run, sandbox, prepared))
      : undefined;
  const describing = awaitedLater(
    Promise.all([writeHardware(run), writeLocks(run, base, prepared)]),
  );
  describing.catch((error) => run.abort(error));
  const ends = await Promise.allSettled([building, describing]);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  await takePackages(run, sandbox);
}
