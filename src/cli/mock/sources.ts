import { existsSync, statSync } from 'node:fs';
import { copyFile, mkdir, symlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { defined } from '../../defined.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import type { BuildSource } from '../../jobs/rpmbuild/request.ts';
import { Cache } from '../../packages/repository/cache.ts';
import { downloadUnknown } from '../../packages/repository/transport/download.ts';
import { Mirrors } from '../../packages/repository/transport/mirrors.ts';
import { defaultTransfer } from '../../packages/repository/transport/transfer-options.ts';
import { usageError } from './command-line.ts';
import { argumentError } from './exit-status.ts';
import { hostPath, type MockSession } from './session.ts';

/** The most bytes of a source package at a URL. */
const MAX_DOWNLOAD = 8 * 2 ** 30;

/** The sources of a build, until this is disposed of. */
export interface BuildSources extends AsyncDisposable {
  readonly list: readonly BuildSource[];
}

/**
 * The sources on the command line: source packages as files or URLs, or a spec. A single source file gets a
 * directory of its own.
 * @throws KilnError E_MOCK_ARGUMENT, E_MOCK_USAGE; E_DOWNLOAD
 */
export async function buildSources(
  session: MockSession,
  srpms: readonly string[],
): Promise<BuildSources> {
  const { line } = session;
  const spec = line.value('spec');
  await using stack = new AsyncDisposableStack();
  const list: BuildSource[] = [];
  for (const srpm of srpms) {
    const path = await localPackage(session, srpm, stack);
    list.push({ kind: 'srpm', path, ...(spec === undefined ? {} : { spec: specPath(spec) }) });
  }
  if (spec !== undefined && list.length === 0) {
    const sources = await sourcesDirectory(session, stack);
    const path = specPath(spec);
    list.push({ kind: 'spec', path, ...defined({ sources }) });
  }
  const disposal = stack.move();
  return { list, [Symbol.asyncDispose]: () => disposal.disposeAsync() };
}

function specPath(spec: string): string {
  const path = hostPath(spec);
  if (existsSync(path)) return path;
  throw usageError(`Input specfile does not exist: ${spec}`);
}

async function sourcesDirectory(
  { line, engine }: MockSession,
  stack: AsyncDisposableStack,
): Promise<string | undefined> {
  const written = line.value('sources');
  if (written === undefined) return undefined;
  const sources = hostPath(written);
  const stat = statSync(sources, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw usageError(`Input sources directory or file does not exist: ${written}`);
  }
  if (!stat.isFile()) return sources;
  const work = stack.use(await openWorkDirectory(engine.paths));
  const directory = join(work.path, 'sources');
  await mkdir(directory);
  await copyFile(sources, join(directory, basename(sources)));
  return directory;
}

/** A source package as a local file; one at a URL is downloaded, as in mock. */
async function localPackage(
  { engine, log, signal }: MockSession,
  srpm: string,
  stack: AsyncDisposableStack,
): Promise<string> {
  if (!/^[a-z]+:\/\//.test(srpm)) return hostPath(srpm);
  const name = URL.canParse(srpm) ? basename(new URL(srpm).pathname) : '';
  if (!/^(?:https?|file):/.test(srpm) || !/^[\w.+~^%-]+\.rpm$/.test(name)) {
    throw argumentError(
      `${srpm} is no URL of a source package`,
      'it begins with https://, http:// or file://, and ends with the name of the package',
    );
  }
  log.info(`Fetching remote file ${srpm}`);
  const file = await downloadUnknown(
    { cache: new Cache(engine.paths), transfer: defaultTransfer, reach: 'named', signal },
    {
      repository: 'source package',
      mirrors: new Mirrors([srpm], undefined),
      location: '',
      item: name,
      maxSize: MAX_DOWNLOAD,
    },
    srpm,
  );
  const work = stack.use(await openWorkDirectory(engine.paths));
  const path = join(work.path, name);
  await symlink(file, path);
  return path;
}
