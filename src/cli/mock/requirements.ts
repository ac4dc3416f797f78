import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { buildPackage } from '../../build/build.ts';
import type { BuildSource } from '../../build/request.ts';
import type { Chroot } from '../../mock/chroot.ts';
import type { MockRoot } from '../../mock/root/root.ts';
import { buildHooks } from './build-output.ts';
import { mockBuildRequest } from './build-request.ts';
import { installArguments } from './modes/packages.ts';
import type { MockSession } from './session.ts';

/** Installs what meets requirements, and `--additional-package`s. */
export async function installRequirements(
  session: MockSession,
  root: MockRoot,
  chroot: Chroot,
  requires: readonly string[],
): Promise<void> {
  const packages = session.line.values('additional-package');
  await installArguments(session, root, chroot, packages, requires);
}

/** What a source asks for: as its build finds out, with the image's macros, dynamic ones included. */
export async function buildRequires(
  session: MockSession,
  chroot: Chroot,
  source: BuildSource,
): Promise<readonly string[]> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-'));
  try {
    const request = mockBuildRequest(session, chroot, source, directory);
    const { failure, buildRequires: requires } = await buildPackage(
      session.engine,
      { ...request, stopAfter: 'dependencies' },
      buildHooks(session, basename(source.path)),
    );
    if (failure !== undefined) throw failure;
    return requires;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
