import { join } from 'node:path';
import { readManifest } from '../image/store/manifest.ts';
import { readBoxRecord } from '../sandbox/box-record.ts';
import type { Engine } from '../sandbox/open.ts';
import type { StatePaths } from '../state/paths.ts';
import { BuildBox } from './box.ts';
import { BuildRun } from './build-run.ts';
import { finish, type Progress } from './finish.ts';
import { leaveBox } from './keep.ts';
import { type KeptBuild, readKept } from './kept-build.ts';
import type { BuildHooks, BuildPhase, BuildReport } from './report.ts';
import type { BuildRequest } from './request.ts';
import { ResultFiles } from './result-files.ts';
import { runRpmbuild, takePackages } from './run-rpmbuild.ts';
import { packageSigner, signCollected } from './sign.ts';
import { makeSrpm } from './srpm.ts';

/** Phases that come before the sources are unpacked and patched. */
const BEFORE_COMPILE = new Set<BuildPhase>([
  'srpm',
  'buildrequires',
  'dynamic-buildrequires',
  'prep',
]);

/**
 * Goes on with a build in the box that it failed in, with all that somebody changed there: the
 * source package is made anew of SPECS and SOURCES, and rpmbuild starts with %prep if that is where
 * it failed, else with what comes after it. If it fails again, the box is kept once more.
 * @param overrides what is to be different from the first time
 * @throws KilnError E_NO_BOX for a box that no build was kept in.
 */
export async function resumeBuild(
  engine: Engine,
  box: string,
  overrides: Partial<BuildRequest>,
  hooks: BuildHooks = {},
): Promise<BuildReport> {
  const kept = await readKept(engine.paths, box);
  const request: BuildRequest = { ...kept.request, ...overrides };
  const run = new BuildRun(engine, request, hooks);
  run.name = kept.name;
  const progress: Progress = {
    ...(await imageOf(engine.paths, box)),
    name: kept.name,
  };
  let failure: unknown;
  try {
    using files = await ResultFiles.open(request.resultDirectory, request.caller);
    run.logTo(files);
    run.signer = await packageSigner(engine, request);
    await goOn(run, progress, box, kept);
  } catch (error) {
    failure = error;
  }
  return await finish(run, progress, failure);
}

async function goOn(run: BuildRun, progress: Progress, id: string, kept: KeptBuild): Promise<void> {
  const { engine } = run;
  const box = await run.phase('sandbox', () => BuildBox.reopen(engine, id, kept.topDirectory));
  progress.box = box;
  try {
    const { requires } = await makeSrpm(run, box, { unpack: false });
    progress.requires = requires;
    const prepDone = !BEFORE_COMPILE.has(kept.failedPhase);
    await runRpmbuild(run, progress, box, prepDone);
    await takePackages(run, progress, box);
  } catch (error) {
    progress.usage = box.sandbox.usage();
    await leaveBox(run, box, error);
    throw error;
  }
  progress.usage = box.sandbox.usage();
  await leaveBox(run, box, undefined);
  await signCollected(run, progress);
}

async function imageOf(paths: StatePaths, box: string): Promise<Pick<Progress, 'image'>> {
  const id = readBoxRecord(join(paths.boxes, box))?.image;
  if (id === undefined) return {};
  return { image: { id, name: readManifest(paths, id)?.name ?? '' } };
}
