import { readdir, readFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { asKilnError } from '../../host/calls/system-error.ts';
import { Folder } from '../../host/files/folder.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { publishRepository } from '../../packages/repository/publish/snapshot.ts';
import { writeResult } from '../../report/write.ts';
import { can, DEFAULT_ISOLATION } from '../../sandbox/policy/ground-kinds.ts';
import { forbiddenError } from '../../users/configuration.ts';
import { buildPackage } from '../rpmbuild/build.ts';
import { BUILD_HOME } from '../rpmbuild/commands.ts';
import { readInput } from '../rpmbuild/input.ts';
import { failed, resultOfBuild } from '../rpmbuild/outcome/finish.ts';
import type { BuildReport } from '../rpmbuild/outcome/report.ts';
import { PROVENANCE_FILES } from '../rpmbuild/provenance/write.ts';
import type { BuildRequest, BuildSource } from '../rpmbuild/request.ts';
import { buildsBesideRoot, cleanup, mockBuildRequest } from './build-request.ts';
import { argumentError, buildHooks, finishBuild, usageError } from './outcome.ts';
import { buildRequires, installArguments } from './packages.ts';
import { MockRoot } from './root/root.ts';
import { RootSandbox } from './root/root-sandbox.ts';
import {
  type ChrootSession,
  type MockSession,
  openBaseImage,
  type RootSession,
  withChroot,
} from './session.ts';
import { buildSources, hostKey } from './sources.ts';

export async function rebuild(session: MockSession): Promise<number> {
  const { line } = session;
  const { args } = line;
  const spec = line.value('spec');
  if (args.length === 0 && spec === undefined) {
    throw argumentError('No package specified to rebuild command.');
  }
  if (args.length > 1 && spec !== undefined) {
    throw argumentError('--spec is for one package: name one SRPM, or none');
  }
  if (args.length > 1 && line.value('resultdir') === undefined) {
    throw usageError('Must specify --resultdir when building multiple RPMS.');
  }
  return await buildAll(session, args, {});
}

export async function buildsrpm(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.value('spec') === undefined) throw usageError('Must specify --spec with --buildsrpm');
  return await buildAll(session, [], { stopAfter: 'srpm' });
}

export async function calculateDependencies(session: MockSession): Promise<number> {
  if (session.line.args.length !== 1) {
    throw argumentError('--calculate-build-dependencies needs one SRPM');
  }
  return await buildAll(session, session.line.args, { stopAfter: 'dependencies' });
}

async function buildAll(
  session: MockSession,
  srpms: readonly string[],
  more: Partial<BuildRequest>,
): Promise<number> {
  const { engine, line } = session;
  if (engine.owner !== undefined && line.value('resultdir') === undefined) {
    throw forbiddenError(
      'the folder of results of a configuration',
      'it is root’s: name --resultdir',
    );
  }
  return await buildIn(await withChroot(session), srpms, more);
}

/** Builds packages, one after the other. */
export async function buildIn(
  session: ChrootSession,
  srpms: readonly string[],
  more: Partial<BuildRequest>,
): Promise<number> {
  const { log, chroot } = session;
  await using root = await MockRoot.lock(session.engine, chroot.root);
  const at = { ...session, root };
  await using sources = await buildSources(session, srpms);
  using key = await hostKey(chroot.sign, session.caller);
  const mistaken = await unreadable(session, sources.list);
  const results = await session.caller.paths.loneResults(resolve(chroot.resultDirectory));
  if (mistaken !== undefined) {
    const request = mockBuildRequest(at, mistaken, results);
    const report = await build(at, { ...request, ...more });
    return finishBuild(log, report, basename(mistaken.path), chroot.root);
  }
  for (const source of sources.list) {
    const what = basename(source.path);
    log.info(`Start(${what})  Config(${chroot.root})`);
    const asked = { ...mockBuildRequest(at, source, results), ...more, ...key.request };
    const report = await buildInRoot(at, asked);
    if (report.failure === undefined && chroot.publish && more.stopAfter === undefined) {
      await log.state('createrepo', () => publishResults(session, report.resultDirectory));
    }
    const status = finishBuild(log, report, what, chroot.root);
    await cleanAfter(at, status === 0);
    if (status !== 0) return status;
  }
  return 0;
}

/** The first that no build can read: it must cost neither the root nor the builds before it. */
async function unreadable(
  { engine, signal }: MockSession,
  sources: readonly BuildSource[],
): Promise<BuildSource | undefined> {
  for (const source of sources) {
    try {
      await readInput(source, engine.paths, signal);
    } catch {
      return source;
    }
  }
  return undefined;
}

/**
 * createrepo_on_rpms: makes a repository of the packages in a result directory. createrepo_c does not run: kiln
 * reads the packages in a confined child and writes the metadata itself.
 * @throws KilnError E_RPM_FORMAT, E_RPM_DIGEST, E_REPOSITORY_COLLISION
 */
async function publishResults(
  { caller, engine, signal }: MockSession,
  directory: HeldPath,
): Promise<void> {
  await using work = await openWorkDirectory(engine.paths);
  using results = Folder.open(directory);
  const packages = results.names().filter((name) => name.endsWith('.rpm'));
  const files = packages.map((name) => ({ path: join(directory, name) }));
  await using snapshot = await publishRepository(join(work.path, 'repository'), files, { signal });
  const made = join(snapshot.path, 'repodata');
  // repomd.xml comes last, because it names the others.
  const names = (await readdir(made)).sort();
  using repodata = results.inner('repodata', caller.ids);
  for (const name of names) repodata.replace(name, await readFile(join(made, name)), caller.ids);
  for (const name of repodata.names()) if (!names.includes(name)) repodata.remove(name);
}

/**
 * Builds a package as mock does with its root: made anew unless `--no-clean`, then left as the build left it,
 * or removed. A root that nobody will see afterwards is never made; the build gets a sandbox of its own.
 */
async function buildInRoot(at: RootSession, request: BuildRequest): Promise<BuildReport> {
  const { log, line, chroot, root } = at;
  const image = line.value('buildroot-image');
  if (image !== undefined) return await buildInImage(at, request, image);
  const { isolation = DEFAULT_ISOLATION } = request;
  if (!can(isolation, 'rootThatStays')) return await buildBesideRoot(at, request);
  // Nothing watches what a build writes to a root that stays, so a user's has none.
  const isOwn = at.engine.owner !== undefined;
  const asked = chroot.clean && !line.has('no-clean') && line.value('short-circuit') === undefined;
  const clean = isOwn || asked;
  const after = cleanup(at);
  if (clean) await log.state('clean chroot', () => root.clean());
  // A root with snapshots is still there: it is as at the current one.
  const opened = await root.open((message) => log.warning({ code: 'mock-root', message }));
  const isThere = opened !== undefined && !opened.record.pristine;
  const report = isThere
    ? await buildThere(at, request)
    : await buildFresh(at, request, after.onSuccess && after.onFailure);
  const installs = request.postinstall === true && (isThere || !after.onSuccess);
  return installs && report.failure === undefined ? await installBuilt(at, report) : report;
}

/** Builds in a machine. A root that is kept under this name stays as it is. */
async function buildBesideRoot(at: RootSession, request: BuildRequest): Promise<BuildReport> {
  const opened = await at.root.open((message) => at.log.warning({ code: 'mock-root', message }));
  if (opened?.record.current !== undefined) {
    throw usageError(
      `--isolation=vm builds in fresh roots, and ${at.chroot.root} is at its snapshot ${opened.record.current}`,
      'go back to its image first: `kiln-mock --rollback-to postinit`',
    );
  }
  await using _ = await at.log.state('chroot init', () => openBaseImage(at));
  return await build(at, request);
}

/** Builds in an image that has what the build requires: no root, and nothing that is solved or installed. */
async function buildInImage(
  at: RootSession,
  request: BuildRequest,
  image: string,
): Promise<BuildReport> {
  const { line, chroot } = at;
  if (/^[./~]|\.(?:tar|oci)/.test(image)) {
    throw usageError(
      `--buildroot-image ${image}: it takes an image of the store`,
      `\`kiln image pull oci-archive:${image} --name NAME\` makes one of an archive of mock’s`,
    );
  }
  const asked = ['no-clean', 'short-circuit', 'postinstall'].find((name) => line.has(name));
  const installed = request.packages?.[0];
  if (asked !== undefined || installed !== undefined) {
    const what = asked === undefined ? `the package ${installed}` : `--${asked}`;
    throw usageError(
      `--buildroot-image with ${what}: nothing is installed into an image, nor kept of it`,
      'make the image with what the build requires',
    );
  }
  const { environment } = chroot;
  return await build(at, { ...request, image, environment, postinstall: false, isPrepared: true });
}

async function installBuilt(at: RootSession, report: BuildReport): Promise<BuildReport> {
  const { packages, resultDirectory, request } = report;
  const kept = await at.root.open(() => undefined);
  if (kept === undefined) return report;
  const files = packages.map(({ file }) => join(resultDirectory, file));
  try {
    await installArguments({ ...at, root: kept }, files);
    return report;
  } catch (error) {
    const told = failed(report, asKilnError(error), 'postinstall');
    using folder = Folder.open(resultDirectory);
    for (const name of PROVENANCE_FILES) folder.remove(name);
    await writeResult(resultDirectory, resultOfBuild(told, at.engine.renamed), request.caller);
    return told;
  }
}

async function cleanAfter(at: RootSession, succeeded: boolean): Promise<void> {
  if (buildsBesideRoot(at.line)) return;
  const { onSuccess, onFailure } = cleanup(at);
  if (!(succeeded ? onSuccess : onFailure)) return;
  const option = succeeded ? 'cleanup_on_success' : 'cleanup_on_failure';
  at.log.info(`Cleaning up build root ('${option}=True')`);
  await at.log.state('clean chroot', () => at.root.clean());
}

async function buildFresh(
  at: RootSession,
  request: BuildRequest,
  temporary: boolean,
): Promise<BuildReport> {
  const { log, root } = at;
  const image = await log.state('chroot init', () => openBaseImage(at));
  // The build's home is in the root then, and must be the build user's home.
  const keepable = image.manifest.user.home === BUILD_HOME;
  if (temporary || !keepable) {
    await using _ = image;
    if (!temporary) {
      const message = `the root is not kept: ${BUILD_HOME} is not the home of the image's user`;
      log.warning({ code: 'mock-root', message });
    }
    return await build(at, request);
  }
  await root.make(image);
  await root.note({ changing: true, inUse: true, pristine: false });
  const report = await build(at, { ...request, scratch: { path: root.scratch, fresh: true } });
  if (report.image !== undefined) await root.rebase(report.image.id);
  await root.note({ changing: false, inUse: false });
  return report;
}

async function buildThere(at: RootSession, request: BuildRequest): Promise<BuildReport> {
  const { line, root } = at;
  const requires = await buildRequires(at, request.source);
  await installArguments(at, line.values('additional-package'), requires);
  if (request.shortCircuit === undefined) {
    await using sandbox = await RootSandbox.open(root, { command: ['clean', BUILD_HOME] });
    await sandbox.capture(['rm', '-rf', `${BUILD_HOME}/build`]);
  }
  await root.note({ inUse: true });
  const report = await build(at, {
    ...request,
    image: root.image.manifest.id,
    environment: at.chroot.environment,
    // In the root itself, afterwards: its image does not tell where packages come from.
    postinstall: false,
    scratch: { path: root.scratch, fresh: false, layers: root.layers },
  });
  await root.note({ inUse: false });
  return report;
}

/** Builds in a sandbox of the build's own, unless the request has a root's files. */
export async function build(session: MockSession, request: BuildRequest): Promise<BuildReport> {
  const what = basename(request.source.path);
  using disk = new DiskWatch(session.engine.paths.store);
  const signal = AbortSignal.any([session.signal, disk.signal]);
  return await session.log.state(`build phase for ${what}`, () =>
    buildPackage(session.engine, request, { ...buildHooks(session, what), signal }),
  );
}
