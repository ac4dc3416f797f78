/** Asks the image's own rpm what each source package of a chain requires, and what it will provide. */
import { KilnError } from '../../errors.ts';
import type { Engine } from '../../sandbox/open.ts';
import { BuildSandbox } from '../rpmbuild/build-sandbox.ts';
import type { BuildBase } from '../rpmbuild/buildroot/base.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';
import { BUILD_HOME, specOptions, withoutRpmlib } from '../rpmbuild/rpmbuild.ts';
import { type Capability, parseCapabilities } from './capability.ts';
import type { Member } from './member.ts';

/** What is known of a package before it is built. */
export interface Scan {
  /** As the spec has them; without what it generates. */
  readonly requires: readonly string[];
  /** Without what rpmbuild will find in the files: sonames, pkgconfig() and the like. */
  readonly provides: readonly Capability[];
  /** Why this is only what the source package's header says. */
  readonly problem: string | undefined;
}

/** A spec's macros run programs; one that takes longer for an answer is asked no more. */
const TIMEOUT_MS = 60_000;

/** Bytes of one answer. */
const MAX_ANSWER = 4 * 2 ** 20;

/**
 * Scans the members in one sandbox, as the unprivileged user and without network: a spec is a program.
 * One whose spec gives no answer is known by its header: its build will say what is wrong with it.
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
    // The sources take room that the next one needs.
    await ask('rm -rf -- "$top"');
    return { requires, provides: [...member.provides, ...provides], problem: undefined };
  } catch (error) {
    if (!(error instanceof KilnError) || error.code !== 'E_CHAIN_SCAN') throw error;
    const { requires, provides } = member;
    return { requires: withoutRpmlib(requires), provides, problem: error.message };
  }
}

/** The lines that a script writes to its standard output. */
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
