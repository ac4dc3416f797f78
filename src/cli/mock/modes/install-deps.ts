import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildPackage } from '../../../build/build.ts';
import type { BuildSource } from '../../../build/request.ts';
import type { Chroot } from '../../../mock/chroot.ts';
import type { MockRoot } from '../../../mock/root/root.ts';
import { readRpm } from '../../../rpm/read.ts';
import { buildHooks } from '../build-output.ts';
import { mockBuildRequest } from '../build-request.ts';
import { argumentError } from '../exit-status.ts';
import { hostPath, type MockSession, withRoot } from '../session.ts';
import { installArguments } from './packages.ts';

/** `--installdeps (SRPM | SPEC | RPM)…`: what they require goes into the root. */
export async function installdeps(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.args.length === 0) {
    throw argumentError('You must specify an SRPM file with --installdeps');
  }
  return await withRoot(session, async (root, chroot) => {
    const requires: string[] = [];
    for (const file of line.args) requires.push(...(await requirements(session, chroot, file)));
    await installRequirements(session, root, chroot, requires);
    return 0;
  });
}

/** Installs what meets requirements, and `--additional-package`s. */
export async function installRequirements(
  session: MockSession,
  root: MockRoot,
  chroot: Chroot,
  requires: readonly string[],
): Promise<void> {
  await installArguments(
    session,
    root,
    chroot,
    session.line.values('additional-package'),
    requires,
  );
}

async function requirements(
  session: MockSession,
  chroot: Chroot,
  file: string,
): Promise<readonly string[]> {
  const path = hostPath(file);
  if (file.endsWith('.spec')) return await buildRequires(session, chroot, { kind: 'spec', path });
  if (file.endsWith('.src.rpm'))
    return await buildRequires(session, chroot, { kind: 'srpm', path });
  const { dependencies } = await readRpm(path);
  return dependencies.requires
    .filter(({ name }) => !name.startsWith('rpmlib('))
    .map(({ name, operator, version }) => `${name} ${operator} ${version}`.trim());
}

/** What a source asks for: as its build finds out, with the image's macros, dynamic ones included. */
async function buildRequires(
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
      buildHooks(session, source.path),
    );
    if (failure !== undefined) throw failure;
    return requires;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
