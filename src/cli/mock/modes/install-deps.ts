import type { Chroot } from '../../../jobs/mock/chroot.ts';
import type { MockRoot } from '../../../jobs/mock/root/root.ts';
import { readRpm } from '../../../packages/rpm/read.ts';
import { argumentError } from '../exit-status.ts';
import { buildRequires, installRequirements, specRequires } from '../requirements.ts';
import { hostPath, type MockSession, withRoot } from '../session.ts';

/** `--installdeps (SRPM | SPEC | RPM)…`: installs their requirements into the root. */
export async function installdeps(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.args.length === 0) {
    throw argumentError('You must specify an SRPM file with --installdeps');
  }
  return await withRoot(session, async (root, chroot) => {
    const requires: string[] = [];
    for (const file of line.args) {
      requires.push(...(await requirements(session, root, chroot, file)));
    }
    await installRequirements(session, root, chroot, requires);
    return 0;
  });
}

async function requirements(
  session: MockSession,
  root: MockRoot,
  chroot: Chroot,
  file: string,
): Promise<readonly string[]> {
  const path = hostPath(file);
  if (file.endsWith('.spec')) return await specRequires(session, root, chroot, path);
  if (file.endsWith('.src.rpm'))
    return await buildRequires(session, chroot, { kind: 'srpm', path });
  const { dependencies } = await readRpm(path);
  return dependencies.requires
    .filter(({ name }) => !name.startsWith('rpmlib('))
    .map(({ name, operator, version }) => `${name} ${operator} ${version}`.trim());
}
