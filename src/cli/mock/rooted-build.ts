import { basename, join } from 'node:path';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import type { Chroot } from '../../jobs/mock/chroot.ts';
import type { MockRoot } from '../../jobs/mock/root/root.ts';
import { RootSandbox } from '../../jobs/mock/root/root-sandbox.ts';
import { buildPackage } from '../../jobs/rpmbuild/build.ts';
import type { BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import type { BuildRequest, BuildSource } from '../../jobs/rpmbuild/request.ts';
import { BUILD_HOME } from '../../jobs/rpmbuild/rpmbuild.ts';
import { buildHooks } from './build-output.ts';
import { cleanup, mockBuildRequest, resultDirectoryOf } from './build-request.ts';
import { installArguments } from './modes/packages.ts';
import { buildRequires, installRequirements } from './requirements.ts';
import { type MockSession, openBaseImage } from './session.ts';

/**
 * Builds a package as mock does with its root: made anew unless `--no-clean`, then left as the build left it,
 * or removed. A root that nobody will see afterwards is never made; the build gets a sandbox of its own.
 */
export async function buildInRoot(
  session: MockSession,
  chroot: Chroot,
  root: MockRoot,
  source: BuildSource,
  more: Partial<BuildRequest>,
): Promise<BuildReport> {
  const { log, line } = session;
  const clean = chroot.clean && !line.has('no-clean') && line.value('short-circuit') === undefined;
  const after = cleanup(session, chroot);
  const request = {
    ...mockBuildRequest(session, chroot, source, resultDirectoryOf(chroot)),
    ...more,
  };
  const opened = clean ? undefined : await root.open((reason) => log.warning(reason));
  if (clean) await log.state('clean chroot', () => root.remove());
  const report =
    opened !== undefined && !opened.record.pristine
      ? await buildThere(session, chroot, root, request)
      : await buildFresh(session, chroot, root, request, after.onSuccess && after.onFailure);
  if (report.failure === undefined && request.postinstall === true && !after.onSuccess) {
    await installBuilt(session, chroot, root, report);
  }
  return report;
}

/** `--postinstall`: installs the built packages into a root that stays. */
async function installBuilt(
  session: MockSession,
  chroot: Chroot,
  root: MockRoot,
  { packages, resultDirectory }: BuildReport,
): Promise<void> {
  const kept = await root.open(() => undefined);
  if (kept === undefined) return;
  const files = packages.map(({ file }) => join(resultDirectory, file));
  await installArguments(session, kept, chroot, files);
}

/** Removes the root after a build, if it must go. */
export async function cleanAfter(
  session: MockSession,
  chroot: Chroot,
  root: MockRoot,
  succeeded: boolean,
): Promise<void> {
  const { onSuccess, onFailure } = cleanup(session, chroot);
  if (!(succeeded ? onSuccess : onFailure)) return;
  const option = succeeded ? 'cleanup_on_success' : 'cleanup_on_failure';
  session.log.info(`Cleaning up build root ('${option}=True')`);
  await session.log.state('clean chroot', () => root.remove());
}

/** Builds in a new root. */
async function buildFresh(
  session: MockSession,
  chroot: Chroot,
  root: MockRoot,
  request: BuildRequest,
  temporary: boolean,
): Promise<BuildReport> {
  const { log } = session;
  const image = await log.state('chroot init', () => openBaseImage(session, chroot));
  // The build's home is in the root then, and must be the build user's home.
  const keepable = image.manifest.user.home === BUILD_HOME;
  if (temporary || !keepable) {
    await using _ = image;
    if (!temporary) {
      log.warning(`the root is not kept: ${BUILD_HOME} is not the home of the image's user`);
    }
    return await build(session, request);
  }
  await root.make(image);
  // A half-finished build is not a complete root.
  await root.note({ changing: true, inUse: true, pristine: false });
  const report = await build(session, {
    ...request,
    scratch: { path: root.scratch, fresh: true },
  });
  if (report.image !== undefined) await root.rebase(report.image.id);
  await root.note({ changing: false, inUse: false });
  return report;
}

/** Builds in a used root, after installing the requirements. */
async function buildThere(
  session: MockSession,
  chroot: Chroot,
  root: MockRoot,
  request: BuildRequest,
): Promise<BuildReport> {
  const requires = await buildRequires(session, chroot, request.source);
  await installRequirements(session, root, chroot, requires);
  if (request.shortCircuit === undefined) {
    await using sandbox = await RootSandbox.open(root, { command: ['clean', BUILD_HOME] });
    await sandbox.capture(['rm', '-rf', `${BUILD_HOME}/build`]);
  }
  await root.note({ inUse: true });
  const report = await build(session, {
    ...request,
    image: root.image.manifest.id,
    scratch: { path: root.scratch, fresh: false },
  });
  await root.note({ inUse: false });
  return report;
}

async function build(session: MockSession, request: BuildRequest): Promise<BuildReport> {
  const what = basename(request.source.path);
  using disk = new DiskWatch(session.engine.paths.store);
  const signal = AbortSignal.any([session.signal, disk.signal]);
  return await session.log.state(`build phase for ${what}`, () =>
    buildPackage(session.engine, request, { ...buildHooks(session, what), signal }),
  );
}
