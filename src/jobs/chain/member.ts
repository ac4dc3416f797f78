import type { Engine } from '../../engine.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { openedPath } from '../../host/files/held.ts';
import { digestOf } from '../../image/key.ts';
import { sha256Of } from '../../packages/repository/cache.ts';
import { formatDependency, formatEvr } from '../../packages/rpm/dependency.ts';
import { readRpms } from '../../packages/rpm/read.ts';
import { BuildSandbox } from '../rpmbuild/build-sandbox.ts';
import type { BuildBase } from '../rpmbuild/buildroot/base.ts';
import { BUILD_HOME, specOptions, withoutRpmlib } from '../rpmbuild/commands.ts';
import type { BuildOptions, BuildRequest } from '../rpmbuild/request.ts';
import { type Capability, parseCapabilities } from './capability.ts';

export interface Member {
  /** name-version-release, also its directory in the result directory. */
  readonly name: string;
  readonly path: HeldPath;
  readonly sha256: string;
  readonly requires: readonly string[];
  readonly provides: readonly Capability[];
}

/**
 * Reads the headers of the source packages in a confined child. A file that is named twice counts once.
 * @throws KilnError E_BUILD_SOURCE for what is none, E_CHAIN_DUPLICATE for two that differ under
 * one name
 */
export async function readMembers(
  paths: readonly HeldPath[],
  signal: AbortSignal | undefined,
): Promise<Member[]> {
  const members = new Map<string, Member>();
  for await (const result of readRpms(paths, { depth: 'header', signal })) {
    // The child answers with the path that it was given.
    const path = openedPath(result.file);
    if (result.error !== undefined)
      throw notASourceError(path, 'is not a source package', result.error);
    const { package: rpm } = result;
    if (!rpm.isSource) throw notASourceError(path, 'is a binary package, not a source package');
    const { name, version, release } = rpm;
    const id = `${name}-${version}-${release}`;
    if (!/^[A-Za-z0-9_][^/\s\0]*$/.test(id)) {
      throw notASourceError(path, 'has a name that cannot be that of a folder');
    }
    const sha256 = await sha256Of(path);
    const other = members.get(id);
    if (other !== undefined && other.sha256 !== sha256) {
      throw new KilnError('E_CHAIN_DUPLICATE', `${other.path} and ${path} are both ${id}`, {
        hint: 'give one of them another release, or leave one out',
      });
    }
    const requires = rpm.dependencies.requires.map(formatDependency);
    const provides = [{ name, operator: '=' as const, version: formatEvr(rpm) }];
    members.set(id, { name: id, path, sha256, requires, provides });
  }
  // In the caller's order: the children answer in any order.
  const place = new Map(paths.toReversed().map((path, index) => [path, -index]));
  return [...members.values()].sort((a, b) => place.get(a.path)! - place.get(b.path)!);
}

function notASourceError(path: string, what: string, cause?: KilnError): KilnError {
  return new KilnError('E_BUILD_SOURCE', `${path} ${what}`, {
    cause,
    hint: 'a chain is built of .src.rpm files; `kiln rpm query` tells what a file is',
  });
}

export interface Scan {
  readonly requires: readonly string[];
  readonly provides: readonly Capability[];
  readonly problem: string | undefined;
}

/** What a scan depends on. */
export function scanKey(sha256: string, image: string, options: BuildOptions): string {
  return digestOf([sha256, image, specOptions(options)]);
}

/** A spec's macros run programs. */
const TIMEOUT_MS = 60_000;

const MAX_ANSWER = 4 * 2 ** 20;

/**
 * Scans the members in one sandbox, as the unprivileged user and without a network, because a spec is a
 * program. If a spec gives no answer, its header counts, and its build reports what is wrong. It is not the way of jobs
 * (`inSandbox()`): there is no report with phases yet, and the sandbox gets files again and again, and is never kept.
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
  const { image } = base;
  await using sandbox = await BuildSandbox.open({ engine, request, image, network: 'private' });
  const options = specOptions(request);
  for (const [index, member] of members.entries()) {
    const top = `${BUILD_HOME}/scan${index}`;
    const copy = { source: member.path, target: `${top}/originals/` };
    await sandbox.sandbox.tree.copyIn([copy], () => undefined, signal);
    const ask = (script: string) => answer(sandbox, script, [top, ...options], signal);
    scans.set(member, await scan(member, ask));
  }
  return scans;
}

/** @param ask runs a script with the folder of the package as `$top`, and `$@` for the options of its spec */
async function scan(member: Member, ask: (script: string) => Promise<string[]>): Promise<Scan> {
  try {
    await ask('rpm -i --nodeps --define "_topdir $top" originals/*.rpm >&2');
    const query = 'rpmspec -q --define "_topdir $top" "$@"';
    const requires = withoutRpmlib(await ask(`${query} --srpm --requires SPECS/*.spec`));
    const provides = (await ask(`${query} --provides SPECS/*.spec`)).flatMap(parseCapabilities);
    await ask('rm -rf -- "$top"');
    return { requires, provides: [...member.provides, ...provides], problem: undefined };
  } catch (error) {
    if (!isKilnCode(error, 'E_CHAIN_SCAN')) throw error;
    const { requires, provides } = member;
    return { requires: withoutRpmlib(requires), provides, problem: error.message };
  }
}

async function answer(
  sandbox: BuildSandbox,
  script: string,
  parameters: readonly string[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const full = `exec 2>/dev/null; top=$1; cd "$top" && shift && ${script}`;
  const argv = ['/bin/sh', '-c', full, 'scan', ...parameters];
  const limits = { capture: MAX_ANSWER + 1, timeout: TIMEOUT_MS, signal };
  const result = await sandbox.run(argv, limits);
  if (result.exitCode !== 0 || result.stdout.length > MAX_ANSWER) {
    const why = result.signal ?? result.exitCode;
    throw new KilnError('E_CHAIN_SCAN', `rpm gives no answer: ${why}`);
  }
  return result.stdout.toString('utf8').split('\n').filter(Boolean);
}
