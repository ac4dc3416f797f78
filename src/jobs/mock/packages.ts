import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { KilnError } from '../../errors.ts';
import { type HeldPath, openedPath, ownPath } from '../../host/files/held.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { sha256Of } from '../../packages/repository/cache.ts';
import { readRpm } from '../../packages/rpm/read.ts';
import { buildPackage } from '../rpmbuild/build.ts';
import { specOptions } from '../rpmbuild/commands.ts';
import type { BuildSource } from '../rpmbuild/request.ts';
import { mockBuildRequest } from './build-request.ts';
import { argumentError, buildHooks, usageError } from './outcome.ts';
import { addOwnPackages, installPackages } from './root/install.ts';
import { inRoot, removePackages } from './root/transaction.ts';
import {
  type ChrootSession,
  isOffline,
  type MockSession,
  packageSources,
  type RootSession,
  withRoot,
} from './session.ts';

export async function install(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.args.length === 0) throw argumentError('You must specify a package list to install.');
  return await withRoot(session, async (at) => {
    await installArguments(at, line.args);
    return 0;
  });
}

export async function installArguments(
  at: RootSession,
  args: readonly string[],
  requires: readonly string[] = [],
): Promise<void> {
  const { log, root, signal } = at;
  for (const arg of args) refuseFile(arg);
  const sources = await packageSources(at);
  const files = args.filter(isPackageFile).map(openedPath);
  const digests = await Promise.all(files.map((file) => sha256Of(file)));
  const own = files.length === 0 ? [] : await addOwnPackages(root, files, signal);
  const names = own
    .filter(({ sha256 }) => digests.includes(sha256))
    .map(({ location }) => location.replace(/\.rpm$/, ''));
  await log.state('install', () =>
    installPackages(root, {
      signal,
      log: (text) => log.output(text),
      sources,
      install: [...args.filter((arg) => !isPackageFile(arg)), ...names],
      requires,
    }),
  );
}

/** What is no name of a package, and no file of one either. @throws KilnError E_MOCK_PACKAGES */
function refuseFile(argument: string): void {
  const refuse = (why: string, hint: string): never => {
    throw new KilnError('E_MOCK_PACKAGES', `${argument} ${why}`, { hint });
  };
  if (/^[a-z]+:\/\//.test(argument)) {
    refuse('is a URL, and not fetched', 'name a package or a file; --addrepo adds a repository');
  }
  if (/\.(?:no)?src\.rpm$/.test(argument)) {
    refuse('is a source package', '--installdeps installs what it requires, --rebuild builds it');
  }
  if (argument.endsWith('.rpm') && !existsSync(openedPath(argument))) {
    refuse('does not exist', 'a name that ends in .rpm is the path of a file of this host');
  }
}

export async function update(session: MockSession): Promise<number> {
  const { line, log, signal } = session;
  return await withRoot(session, async (at) => {
    const sources = await packageSources(at);
    const refresh = isOffline(at) ? 'never' : 'always';
    await log.state('update', () =>
      installPackages(at.root, {
        signal,
        log: (text) => log.output(text),
        sources: { ...sources, refresh },
        install: [],
        renew: line.args.length === 0 ? 'all' : line.args,
      }),
    );
    return 0;
  });
}

export async function remove(session: MockSession): Promise<number> {
  const { line, log, signal } = session;
  const packages = line.args;
  if (packages.length === 0) throw argumentError('You must specify a package list to remove.');
  return await withRoot(session, async ({ root }) => {
    await log.state('remove', () =>
      removePackages(root, {
        ...{ packages, signal },
        log: (text) => log.output(text),
        warn: (message) => log.warning({ code: 'solver', message }),
      }),
    );
    return 0;
  });
}

const COMMANDS: Readonly<Record<string, (session: MockSession) => Promise<number>>> = {
  install,
  update,
  upgrade: update,
  remove,
  erase: remove,
};

/** `--pm-cmd`, `--dnf-cmd`, `--yum-cmd`: no package manager runs on the host. */
export async function packageManager(session: MockSession): Promise<number> {
  const { line } = session;
  const [command = '', ...args] = line.args.filter((word) => !/^(?:-y|--assumeyes)$/.test(word));
  const act = COMMANDS[command];
  if (act !== undefined) return await act({ ...session, line: { ...line, args } });
  throw usageError(
    `kiln does not do \`${command}\` of package managers`,
    `it does ${Object.keys(COMMANDS).join(', ')}; --chroot runs the root’s own package manager, if it has one`,
  );
}

function isPackageFile(argument: string): boolean {
  return argument.endsWith('.rpm') && existsSync(openedPath(argument));
}

export async function installdeps(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.args.length === 0) {
    throw argumentError('You must specify an SRPM file with --installdeps');
  }
  return await withRoot(session, async (at) => {
    const requires: string[] = [];
    for (const file of line.args) requires.push(...(await requirements(at, file)));
    await installArguments(at, line.values('additional-package'), requires);
    return 0;
  });
}

async function requirements(at: RootSession, file: string): Promise<readonly string[]> {
  const path = openedPath(file);
  if (file.endsWith('.spec')) return await specRequires(at, path);
  if (file.endsWith('.src.rpm')) return await buildRequires(at, { kind: 'srpm', path });
  const { dependencies } = await readRpm(path);
  return dependencies.requires
    .filter(({ name }) => !name.startsWith('rpmlib('))
    .map(({ name, operator, version }) => `${name} ${operator} ${version}`.trim());
}

export async function buildRequires(
  at: ChrootSession,
  source: BuildSource,
): Promise<readonly string[]> {
  await using work = await openWorkDirectory(at.engine.paths);
  const request = mockBuildRequest(at, source, ownPath(work.path));
  const { failure, buildRequires: requires } = await buildPackage(
    at.engine,
    { ...request, stopAfter: 'dependencies' },
    buildHooks(at, basename(source.path)),
  );
  if (failure !== undefined) throw failure;
  return requires;
}

/** The most bytes of a spec file. */
const MAX_SPEC = 16 * 2 ** 20;

function readSpec(path: string): Buffer {
  try {
    return readUserFile(path, MAX_SPEC);
  } catch (cause) {
    throw new KilnError('E_MOCK_ARGUMENT', `cannot read ${path}`, {
      cause,
      hint: 'give the path of a spec file, of 16 MB at most',
    });
  }
}

/** Stores the spec from stdin in a file, because rpmspec needs one. */
const QUERY =
  'spec=$(mktemp) && cat > "$spec" && rpmspec -q --buildrequires "$@" "$spec"; status=$?; rm -f "$spec"; exit $status';

/**
 * The requirements of a spec, without its sources, by the root's own rpm. It runs as the build user, because a
 * spec is a program.
 */
async function specRequires(at: RootSession, path: HeldPath): Promise<readonly string[]> {
  const input = readSpec(path);
  const request = mockBuildRequest(at, { kind: 'spec', path }, ownPath('/'));
  const query = ['/bin/sh', '-c', QUERY, 'sh', ...specOptions(request)];
  const result = await inRoot(at.root, { command: ['rpmspec'] }, (sandbox) =>
    sandbox.capture(query, {
      user: at.chroot.user,
      env: { TMPDIR: '/tmp' },
      input,
      signal: at.signal,
    }),
  );
  if (result.exitCode !== 0) {
    throw new KilnError('E_BUILD_SPEC', `rpmspec cannot read ${path}: ${result.output.trim()}`);
  }
  return result.stdout.split('\n').filter((line) => line !== '');
}
