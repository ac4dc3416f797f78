/** Asks the image's own rpm what each source package of a chain requires, and what it will provide. */
import { KilnError } from '../../errors.ts';
import type { Engine } from '../../sandbox/open.ts';
import { BuildSandbox } from '../rpmbuild/build-sandbox.ts';
import type { BuildBase } from '../rpmbuild/buildroot/base.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { BUILD_HOME, specOptions, withoutRpmlib } from '../rpmbuild/rpmbuild.ts';
import { type Capability, parseCapabilities } from './capability.ts';
import type { Member } from './member.ts';

/** What is known of a package before its build. */
export interface Scan {
  /** The spec's requirements, without generated ones. */
  readonly requires: readonly string[];
  /** The spec's provides, without those that rpmbuild finds in files: sonames, pkgconfig() and the like. */
  readonly provides: readonly Capability[];
  /** Why only the source package's header is known. */
  readonly problem: string | undefined;
}

/** A spec's macros run programs; after this time kiln gives up. */
const TIMEOUT_MS = 60_000;

/** The most bytes of an answer. */
const MAX_ANSWER = 4 * 2 ** 20;

/**
 * Scans the members in one sandbox, as the unprivileged user and without a network, because a spec is a
 * program. If a spec gives no answer, its header counts, and its build reports what is wrong.
 */
export async function scanMembers(
  engine: Engine,
  base: BuildBase,
  request: BuildRequest,
  members: readonly Member[],
  signal: AbortSignal | undefined,
): Promise<Map<Member, Scan>> {
  const scans = new Map<Member, Scan>();
  if (members.length === 0) return scans;
  const { keepSeconds: _, ...oneShot } = request;
  const sandbox = await BuildSandbox.open({
    engine,
    request: oneShot,
    image: base.image,
    network: 'private',
    binds: [],
    env: {},
  });
  try {
    for (const [index, member] of members.entries()) {
      const top = `${BUILD_HOME}/scan${index}`;
      const ignore = () => undefined;
      await sandbox.sandbox.copyIn(
        [{ source: member.path, target: `${top}/originals/` }],
        ignore,
        signal,
      );
      scans.set(member, await scan(sandbox, request, member, top, signal));
    }
  } finally {
    await sandbox.close();
  }
  return scans;
}

async function scan(
  sandbox: BuildSandbox,
  request: BuildRequest,
  member: Member,
  top: string,
  signal: AbortSignal | undefined,
): Promise<Scan> {
  const ask = (script: string) => answer(sandbox, script, top, specOptions(request), signal);
  try {
    await ask('rpm -i --nodeps --define "_topdir $top" originals/*.rpm >&2');
    const query = 'rpmspec -q --define "_topdir $top" "$@"';
    const requires = withoutRpmlib(await ask(`${query} --srpm --requires SPECS/*.spec`));
    const provides = (await ask(`${query} --provides SPECS/*.spec`)).flatMap(parseCapabilities);
    // Frees the room for the next one's sources.
    await ask('rm -rf -- "$top"');
    return { requires, provides: [...member.provides, ...provides], problem: undefined };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code !== 'E_CHAIN_SCAN') throw error;
    const { requires, provides } = member;
    return { requires: withoutRpmlib(requires), provides, problem: error.message };
  }
}

/** The lines that a script prints. */
async function answer(
  sandbox: BuildSandbox,
  script: string,
  top: string,
  options: readonly string[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const full = `exec 2>/dev/null; top=$1; cd "$top" && shift && ${script}`;
  const {
    exitCode,
    signal: endedBy,
    stdout,
  } = await sandbox.run(['/bin/sh', '-c', full, 'scan', top, ...options], {
    capture: MAX_ANSWER + 1,
    timeout: TIMEOUT_MS,
    signal,
  });
  if (exitCode !== 0 || stdout.length > MAX_ANSWER) {
    throw new KilnError('E_CHAIN_SCAN', `rpm gives no answer: ${endedBy ?? exitCode}`);
  }
  const lines = stdout.toString('utf8').split('\n');
  return lines.filter((line) => line !== '');
}
