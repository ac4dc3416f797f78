import { closeSync, existsSync, mkdtempSync, openSync, statSync, writeFileSync } from 'node:fs';
import { copyFile, mkdir, symlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { below, type HeldPath, heldPath, openedPath, ownPath } from '../../host/files/held.ts';
import { removeTreeNow } from '../../host/files/remove-tree.ts';
import { runTool } from '../../host/process/child-process.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { downloadContext } from '../../packages/repository/open.ts';
import { downloadUnknown } from '../../packages/repository/transport/download.ts';
import type { BuildSource } from '../rpmbuild/request.ts';
import type { SignPlugin } from './config/plugins.ts';
import { exportSecretKey } from './export-key.ts';
import { argumentError, usageError } from './outcome.ts';
import { hostPath, type MockSession } from './session.ts';

/** The most bytes of a source package at a URL. */
const MAX_DOWNLOAD = 8 * 2 ** 30;

/**
 * The sources on the command line: source packages as files or URLs, or a spec. A single source file gets a
 * directory of its own.
 * @throws KilnError E_MOCK_ARGUMENT, E_MOCK_USAGE; E_DOWNLOAD
 */
export async function buildSources(session: MockSession, srpms: readonly string[]) {
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

function specPath(spec: string): HeldPath {
  const path = openedPath(spec);
  if (existsSync(path)) return path;
  throw usageError(`Input specfile does not exist: ${spec}`);
}

async function sourcesDirectory(
  { line, engine }: MockSession,
  stack: AsyncDisposableStack,
): Promise<HeldPath | undefined> {
  const written = line.value('sources');
  if (written === undefined) return undefined;
  const sources = openedPath(written);
  const stat = statSync(sources, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw usageError(`Input sources directory or file does not exist: ${written}`);
  }
  if (!stat.isFile()) return sources;
  const work = stack.use(await openWorkDirectory(engine.paths));
  const directory = below(ownPath(work.path), 'sources');
  await mkdir(directory);
  await copyFile(sources, join(directory, basename(sources)));
  return directory;
}

async function localPackage(
  { engine, log, signal }: MockSession,
  srpm: string,
  stack: AsyncDisposableStack,
): Promise<HeldPath> {
  if (!/^[a-z]+:\/\//.test(srpm)) return openedPath(srpm);
  const name = URL.canParse(srpm) ? basename(new URL(srpm).pathname) : '';
  if (!/^https?:/.test(srpm) || !/^[\w.+~^%-]+\.rpm$/.test(name)) {
    throw argumentError(
      `${srpm} is not the URL of a source package`,
      'it begins with https://, http:// or file://, and ends with the name of the package',
    );
  }
  log.info(`Fetching remote file ${srpm}`);
  const file = await downloadUnknown(downloadContext({ paths: engine.paths, signal }), srpm, {
    repository: 'source package',
    item: name,
    maxSize: MAX_DOWNLOAD,
  });
  const work = stack.use(await openWorkDirectory(engine.paths));
  const path = below(ownPath(work.path), name);
  await symlink(file, path);
  return path;
}

export interface HostKey extends Disposable {
  readonly request: { readonly signKey?: HeldPath };
}

/**
 * Has gpg export the configuration's key into a nameless file in memory.
 * @throws KilnError E_SIGN_KEY
 */
export async function hostKey(
  plugin: SignPlugin | undefined,
  { env }: MockSession['caller'],
): Promise<HostKey> {
  if (plugin === undefined) return { request: {}, [Symbol.dispose]: () => undefined };
  const name = plugin.name ?? (await macro('_gpg_name'));
  const home = plugin.home ?? ((await macro('_gpg_path')) || env.GNUPGHOME || '~/.gnupg');
  if (name === '') {
    throw new KilnError('E_SIGN_KEY', 'the plugin sign is on, and no key is named', {
      hint: "sign_opts['opts'] = '--addsign %(rpms)s -D \"%%_gpg_name NAME\"', or %_gpg_name in ~/.rpmmacros",
    });
  }
  const armored = await exportSecretKey({
    name,
    home: hostPath(home),
    passphrase: env.KILN_SIGN_PASSPHRASE,
  });
  const directory = mkdtempSync('/dev/shm/kiln-key-');
  const path = join(directory, 'key');
  const fd = openSync(path, 'wx+', 0o600);
  removeTreeNow(directory);
  writeFileSync(fd, armored);
  return {
    request: { signKey: heldPath(fd) },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

async function macro(name: string): Promise<string> {
  const { stdout } = await runTool('rpm', ['--eval', `%{?${name}}`], { cwd: '/' });
  return stdout.trim();
}
