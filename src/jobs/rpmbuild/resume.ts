import { join } from 'node:path';
import type { StatePaths } from '../../host/state/paths.ts';
import { readManifest } from '../../image/store/manifest.ts';
import { readSandboxRecord } from '../../sandbox/domain/sandbox-record.ts';
import type { Engine } from '../../sandbox/open.ts';
import { packageSigner, signCollected } from '../provenance/sign.ts';
import { BuildRun } from './build-run.ts';
import { BuildSandbox } from './build-sandbox.ts';
import { leaveSandbox } from './keep.ts';
import { type KeptBuild, readKept } from './kept-build.ts';
import { finish, type Progress } from './outcome/finish.ts';
import type { BuildHooks, BuildPhase, BuildReport } from './outcome/report.ts';
import { ResultFiles } from './outcome/result-files.ts';
import type { BuildRequest } from './request.ts';
import { runRpmbuild, takePackages } from './run-rpmbuild.ts';
import { makeSrpm } from './srpm.ts';

/** Phases that come before the sources are unpacked and patched. */
const BEFORE_COMPILE = new Set<BuildPhase>([
  'srpm',
  'buildrequires',
  'dynamic-buildrequires',
  'prep',
]);

/**
 * Goes on with a build in the sandbox that it failed in, with all that somebody changed there: the
 * source package is made anew of SPECS and SOURCES, and rpmbuild starts with %prep if that is where
 * it failed, else with what comes after it. If it fails again, the sandbox is kept once more.
 * @param overrides what is to be different from the first time
 * @throws KilnError E_NO_SANDBOX for a sandbox that no build was kept in.
 */
export async function resumeBuild(
  engine: Engine,
  sandbox: string,
  overrides: Partial<BuildRequest>,
  hooks: BuildHooks = {},
): Promise<BuildReport> {
  const kept = await readKept(engine.paths, sandbox);
  const request: BuildRequest = { ...kept.request, ...overrides };
  const run = new BuildRun(engine, request, hooks);
  run.name = kept.name;
  const progress: Progress = {
    ...(await imageOf(engine.paths, sandbox)),
    name: kept.name,
  };
  let failure: unknown;
  try {
    using files = await ResultFiles.open(request.resultDirectory, request.caller);
    run.logTo(files);
    run.signer = await packageSigner(engine, request);
    await goOn(run, progress, sandbox, kept);
  } catch (error) {
    failure = error;
  }
  return await finish(run, progress, failure);
}

async function goOn(run: BuildRun, progress: Progress, id: string, kept: KeptBuild): Promise<void> {
  const { engine } = run;
  const sandbox = await run.phase('sandbox', () =>
    BuildSandbox.reopen(engine, id, kept.topDirectory),
  );
  progress.sandbox = sandbox;
  try {
    const { requires } = await makeSrpm(run, sandbox, { unpack: false });
    progress.requires = requires;
    const prepDone = !BEFORE_COMPILE.has(kept.failedPhase);
    await runRpmbuild(run, progress, sandbox, prepDone);
    await takePackages(run, progress, sandbox);
  } catch (error) {
    progress.usage = sandbox.sandbox.usage();
    await leaveSandbox(run, sandbox, error);
    throw error;
  }
  progress.usage = sandbox.sandbox.usage();
  await leaveSandbox(run, sandbox, undefined);
  await signCollected(run, progress);
}

async function imageOf(paths: StatePaths, sandbox: string): Promise<Pick<Progress, 'image'>> {
  const id = readSandboxRecord(join(paths.sandboxes, sandbox))?.image;
  if (id === undefined) return {};
  return { image: { id, name: readManifest(paths, id)?.name ?? '' } };
}
