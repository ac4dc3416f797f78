import { basename } from 'node:path';
import type { BuildRequest } from '../../../jobs/rpmbuild/request.ts';
import { forbidden } from '../../../users/user.ts';
import { finishBuild } from '../build-output.ts';
import { usageError } from '../command-line.ts';
import { argumentError } from '../exit-status.ts';
import { publishResults } from '../publish-results.ts';
import { buildInRoot, cleanAfter } from '../rooted-build.ts';
import { lockRoot, type MockSession, sessionChroot } from '../session.ts';
import { hostKey } from '../signing.ts';
import { buildSources } from '../sources.ts';

/** `--rebuild SRPM…`, or with `--spec` and `--sources`. */
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

/** `--buildsrpm --spec SPEC [--sources PATH]` */
export async function buildsrpm(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.value('spec') === undefined) throw usageError('Must specify --spec with --buildsrpm');
  return await buildAll(session, [], { stopAfter: 'srpm' });
}

/** `--calculate-build-dependencies SRPM`: writes the locks of its build root, without a build. */
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
  // The key is root's, so a user's build is not signed with it.
  if (session.caller.user !== undefined && chroot.sign !== undefined) {
    throw forbidden('a configuration with the plugin sign', 'its key is root’s', {
      hint: `build without it, and sign with a key of your own: \`kiln build --sign-key\``,
    });
  }
  if (session.caller.user !== undefined && chroot.binds.length > 0) {
    throw forbidden('a configuration with the plugin bind_mount', 'it shows what root may read');
  }
  using key = await hostKey(chroot.sign, session.caller);
  for (const source of sources.list) {
    const what = basename(source.path);
    log.info(`Start(${what})  Config(${chroot.root})`);
    const report = await buildInRoot(session, chroot, root, source, {
      ...more,
      ...key.request,
    });
    if (report.failure === undefined && chroot.publish && more.stopAfter === undefined) {
      await log.state('createrepo', () => publishResults(session, report.resultDirectory));
    }
    const status = finishBuild(log, report, what, chroot.root);
    await cleanAfter(session, chroot, root, status === 0);
    if (status !== 0) return status;
  }
  return 0;
}
