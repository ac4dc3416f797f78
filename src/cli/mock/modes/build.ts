import { existsSync, statSync } from 'node:fs';
import { copyFile, mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { BuildRequest, BuildSource } from '../../../build/request.ts';
import { openWorkDirectory } from '../../../image/store/work-directory.ts';
import { finishBuild } from '../build-output.ts';
import { usageError } from '../command-line.ts';
import { argumentError } from '../exit-status.ts';
import { buildInRoot, cleanAfter } from '../rooted-build.ts';
import { hostPath, lockRoot, type MockSession, sessionChroot } from '../session.ts';
import { hostKey } from '../signing.ts';

/** `--rebuild SRPM…`, or with `--spec` and `--sources`. */
export async function rebuild(session: MockSession): Promise<number> {
  const { line } = session;
  const { args } = line;
  const spec = line.value('spec');
  if (args.length === 0 && spec === undefined) {
    throw argumentError('No package specified to rebuild command.');
  }
  if (args.length > 0 && spec !== undefined) {
    throw argumentError('--spec is for one package: leave the SRPMs out');
  }
  if (args.length > 1 && line.value('resultdir') === undefined) {
    throw usageError('Must specify --resultdir when building multiple RPMS.');
  }
  return await buildAll(session, args, {});
}

/** `--buildsrpm --spec SPEC --sources PATH` */
export async function buildsrpm(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.value('spec') === undefined || line.value('sources') === undefined) {
    throw usageError('Must specify both --spec and --sources with --buildsrpm');
  }
  return await buildAll(session, [], { stopAfter: 'srpm' });
}

/** `--calculate-build-dependencies SRPM`: the locks of its build root, and no build. */
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
  const { log } = session;
  const chroot = await sessionChroot(session);
  await using root = await lockRoot(session, chroot);
  await using sources = await buildSources(session, srpms);
  using key = await hostKey(chroot.sign, session.caller);
  for (const source of sources.list) {
    const what = basename(source.path);
    log.info(`Start(${what})  Config(${chroot.root})`);
    const report = await buildInRoot(session, chroot, root, source, {
      ...more,
      ...key.request,
    });
    const status = finishBuild(log, report, what, chroot.root);
    await cleanAfter(session, chroot, root, status === 0);
    if (status !== 0) return status;
  }
  return 0;
}

interface BuildSources extends AsyncDisposable {
  readonly list: readonly BuildSource[];
}

/** What is to be built; a single source file gets a directory of its own. */
async function buildSources(
  { line, engine }: MockSession,
  srpms: readonly string[],
): Promise<BuildSources> {
  const spec = line.value('spec');
  await using stack = new AsyncDisposableStack();
  if (spec === undefined) {
    const list = srpms.map((path): BuildSource => ({ kind: 'srpm', path: hostPath(path) }));
    return { list, [Symbol.asyncDispose]: async () => undefined };
  }
  const path = hostPath(spec);
  if (!existsSync(path)) throw usageError(`Input specfile does not exist: ${spec}`);
  const written = line.value('sources');
  let sources = written === undefined ? undefined : hostPath(written);
  const stat = sources === undefined ? undefined : statSync(sources, { throwIfNoEntry: false });
  if (sources !== undefined && stat === undefined) {
    throw usageError(`Input sources directory or file does not exist: ${written}`);
  }
  if (sources !== undefined && stat?.isFile() === true) {
    const work = stack.use(await openWorkDirectory(engine.paths));
    const directory = join(work.path, 'sources');
    await mkdir(directory);
    await copyFile(sources, join(directory, basename(sources)));
    sources = directory;
  }
  const disposal = stack.move();
  return {
    list: [{ kind: 'spec', path, ...(sources === undefined ? {} : { sources }) }],
    [Symbol.asyncDispose]: () => disposal.disposeAsync(),
  };
}
