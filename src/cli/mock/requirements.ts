import { basename } from 'node:path';
import { KilnError } from '../../errors.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import type { Chroot } from '../../jobs/mock/chroot.ts';
import type { MockRoot } from '../../jobs/mock/root/root.ts';
import { RootSandbox } from '../../jobs/mock/root/root-sandbox.ts';
import { buildPackage } from '../../jobs/rpmbuild/build.ts';
import type { BuildSource } from '../../jobs/rpmbuild/request.ts';
import { specOptions } from '../../jobs/rpmbuild/rpmbuild.ts';
import { buildHooks } from './build-output.ts';
import { mockBuildRequest } from './build-request.ts';
import { installArguments } from './modes/packages.ts';
import type { MockSession } from './session.ts';

/** Installs packages that meet requirements, and `--additional-package`s. */
export async function installRequirements(
  session: MockSession,
  root: MockRoot,
  chroot: Chroot,
  requires: readonly string[],
): Promise<void> {
  const packages = session.line.values('additional-package');
  await installArguments(session, root, chroot, packages, requires);
}

/** The requirements of a source as its build finds them, with the image's macros, including dynamic ones. */
export async function buildRequires(
  session: MockSession,
  chroot: Chroot,
  source: BuildSource,
): Promise<readonly string[]> {
  await using work = await openWorkDirectory(session.engine.paths);
  const request = mockBuildRequest(session, chroot, source, work.path);
  const { failure, buildRequires: requires } = await buildPackage(
    session.engine,
    { ...request, stopAfter: 'dependencies' },
    buildHooks(session, basename(source.path)),
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
export async function specRequires(
  session: MockSession,
  root: MockRoot,
  chroot: Chroot,
  path: string,
): Promise<readonly string[]> {
  const input = readSpec(path);
  const request = mockBuildRequest(session, chroot, { kind: 'spec', path }, '/');
  await using sandbox = await RootSandbox.open(root, { command: ['rpmspec'] });
  const result = await sandbox.capture(['/bin/sh', '-c', QUERY, 'sh', ...specOptions(request)], {
    user: chroot.user,
    env: { TMPDIR: '/tmp' },
    input,
    signal: session.signal,
  });
  if (result.exitCode !== 0) {
    throw new KilnError('E_BUILD_SPEC', `rpmspec cannot read ${path}: ${result.output.trim()}`);
  }
  return result.stdout.split('\n').filter((line) => line !== '');
}
