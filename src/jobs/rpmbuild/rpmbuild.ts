import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import { shellWord } from '../../shell-words.ts';
import type { BuildJob } from './build-job.ts';
import type { BuildSandbox } from './build-sandbox.ts';
import {
  BuildFailure,
  failedSection,
  notForThisMachine,
  summedUp,
  unmetRequires,
  whichLimit,
} from './outcome/outcome.ts';
import type { BuildPhase } from './outcome/report.ts';
import type { BuildRequest } from './request.ts';

/** The build user's home, as in mock: a file system of its own. */
export const BUILD_HOME = '/builddir';

export const TOP_DIRECTORY = `${BUILD_HOME}/build`;

/** Exit status of rpmbuild when BuildRequires are not met (RPMRC_MISSINGBUILDREQUIRES). */
export const MISSING_BUILDREQUIRES = 11;

/** ~/.rpmmacros: a person in a kept sandbox builds as kiln did. RPMs come out flat in RPMS/, as in mock. */
export function rpmMacros(top: string, hostname: string): string {
  return [
    `%_topdir ${top}`,
    '%_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm',
    // rpmbuild would ask a resolver, and a sandbox has none.
    `%_buildhost ${hostname}`,
    '',
  ].join('\n');
}

type SpecRequest = Pick<
  BuildRequest,
  'target' | 'defines' | 'with' | 'without' | 'nocheck' | 'rpmbuildOptions'
>;

export function specOptions(request: SpecRequest): string[] {
  return [
    ...(request.target === undefined ? [] : ['--target', request.target]),
    ...(request.defines ?? []).flatMap((define) => ['--define', define]),
    ...(request.with ?? []).flatMap((name) => ['--with', name]),
    ...(request.without ?? []).flatMap((name) => ['--without', name]),
    ...(request.nocheck === true ? ['--nocheck'] : []),
    ...(request.rpmbuildOptions ?? []),
  ];
}

function shell(name: string, script: string, ...parameters: readonly string[]): string[] {
  // One stream for both outputs keeps them in order.
  return ['/bin/sh', '-c', `exec 2>&1; cd "$1" && shift && ${script}`, name, ...parameters];
}

export function commandLine(argv: readonly string[]): string {
  const [, , script = '', , , ...parameters] = argv;
  const written = script.slice(script.indexOf('&& shift && ') + '&& shift && '.length);
  const words = parameters.map((word) => `${shellWord(word)} `).join('');
  return written.replace(/\bexec /, '').replace('"$@" ', () => words);
}

export function unpackSource(top: string): string[] {
  const script =
    'rpm -i --nodeps originals/*.rpm && if [ -d replacement ]; then rm -f SPECS/*.spec && cp replacement/*.spec SPECS/; fi';
  return shell('unpack', script, top);
}

export function makeSourcePackage(top: string, options: readonly string[]): string[] {
  const script = 'rm -f SRPMS/*.rpm && exec rpmbuild "$@" -bs --nodeps SPECS/*.spec';
  return shell('srpm', script, top, ...options);
}

/** {@link querySource} writes these before an architecture of ExclusiveArch, and before the image's own. */
export const ONLY_FOR = 'only for ';
export const BUILT_FOR = 'built for ';

export function querySource(top: string): string[] {
  const query = 'rpm -qp --nosignature';
  const script = [
    `${query} --requires SRPMS/*src.rpm`,
    `${query} --qf '[${ONLY_FOR}%{EXCLUSIVEARCH}\\n]' SRPMS/*src.rpm`,
    `exec rpm --eval '${BUILT_FOR}%{_target_cpu}'`,
  ];
  return shell('requires', script.join(' && '), top);
}

/** Generates dynamic BuildRequires (-br); with --nodeps it always ends with {@link MISSING_BUILDREQUIRES}. */
export function generateBuildRequires(top: string, options: readonly string[]): string[] {
  return shell('buildrequires', 'exec rpmbuild "$@" -br --nodeps SPECS/*.spec', top, ...options);
}

export function queryGenerated(top: string): string[] {
  const script =
    'rpm -qp --nosignature --requires SRPMS/*.buildreqs.nosrc.rpm && rm SRPMS/*.buildreqs.nosrc.rpm';
  return shell('requires', script, top);
}

const SHORT_CIRCUIT = { build: '-bc', install: '-bi', binary: '-bb' } as const;

interface BuildStart {
  /** %prep has run in this sandbox. */
  readonly prepDone: boolean;
  /** The spec has %generate_buildrequires. */
  readonly dynamic: boolean;
}

function buildPackages(
  top: string,
  request: Pick<BuildRequest, 'shortCircuit' | 'scratch'> & Parameters<typeof specOptions>[0],
  { prepDone, dynamic }: BuildStart,
): string[] {
  const { shortCircuit, scratch } = request;
  // Only -ba writes generated requirements into the source package.
  const whole = [dynamic ? '-ba' : '-bb', ...(prepDone ? ['--noprep'] : [])];
  const stage =
    shortCircuit === undefined ? whole : [SHORT_CIRCUIT[shortCircuit], '--short-circuit'];
  // In a root that stays, the unpacked and installed files stay as well.
  const keep = scratch === undefined ? [] : ['--noclean'];
  const script = `${shortCircuit === undefined ? '' : 'rm -f RPMS/*.rpm && '}exec rpmbuild "$@" SPECS/*.spec`;
  return shell('build', script, top, ...specOptions(request), ...stage, ...keep);
}

/** Without requirements on rpm itself: the image's rpm answers those. */
export function withoutRpmlib(requires: readonly string[]): string[] {
  return requires.filter((line) => !line.startsWith('rpmlib('));
}

export function isDynamic(requires: readonly string[]): boolean {
  return requires.some((line) => line.startsWith('rpmlib(DynamicBuildRequires)'));
}

/**
 * Makes the binary packages in a sandbox that has all requirements, and the source package anew where requirements are
 * generated.
 * @throws BuildFailure E_BUILD_FAILED, E_BUILD_REQUIRES, E_BUILD_ARCH
 */
export async function runRpmbuild(
  job: BuildJob,
  sandbox: BuildSandbox,
  start: BuildStart,
): Promise<CommandEnd> {
  return await job.phase('build', async () => {
    const stages = new Stages(job);
    const command = job.command('build.log');
    const argv = buildPackages(sandbox.topDirectory, job.request, start);
    const onOutput = (chunk: Buffer) => {
      command.onOutput(chunk);
      stages.push(chunk);
    };
    const end = await job.logged(sandbox, argv, { ...command, onOutput }).catch((error) => {
      stages.end(true);
      throw error;
    });
    const { exitCode, signal, timeLimit } = end;
    const limit = whichLimit(end);
    const { section } = stages;
    const isUnmet = exitCode === MISSING_BUILDREQUIRES && limit === null;
    // rpmbuild asks for what is missing before any part of its run.
    if (isUnmet) job.timeline.fail('build');
    stages.end(exitCode !== 0);
    if (exitCode === 0 && limit === null) return { exitCode, signal, timeLimit };
    if (isUnmet) throw unmetRequires(end);
    const elsewhere = limit === null ? notForThisMachine(end) : undefined;
    if (elsewhere !== undefined) throw elsewhere;
    const lines = end.output.lines();
    const scriptlet = failedSection(lines);
    const what = scriptlet ?? section ?? 'rpmbuild';
    const mistake = scriptlet === undefined ? summedUp(lines) : undefined;
    const hint = mistake === undefined ? undefined : `mend the spec: ${mistake}`;
    throw new BuildFailure('E_BUILD_FAILED', `${what} failed`, end, hint);
  });
}

const SECTIONS: Readonly<Record<string, BuildPhase>> = {
  prep: 'prep',
  generate_buildrequires: 'dynamic-buildrequires',
  build: 'compile',
  install: 'install',
  check: 'check',
};

/** Bytes of a line that are examined. */
const LINE_LENGTH = 200;

/** The part of rpmbuild's run that begins with this line of its log. */
export function partBegunBy(
  line: string,
): { readonly section?: string; readonly phase: BuildPhase | undefined } | undefined {
  if (line.startsWith(PROCESSING)) return { phase: 'package' };
  const section = /^Executing\(%(\w{1,64})\): /.exec(line)?.[1];
  return section === undefined ? undefined : { section: `%${section}`, phase: SECTIONS[section] };
}

/** Whether more of a line may make it the beginning of a part. */
export function mayBeginPart(line: string): boolean {
  const isBegun = (part: string) => part.startsWith(line) || line.startsWith(part);
  return line.length < PART_LENGTH && ['Executing(%', PROCESSING].some(isBegun);
}

const PROCESSING = 'Processing files: ';

/** Bytes of the beginning of a part, at most. */
const PART_LENGTH = 80;

/** Tells the parts of rpmbuild's run, for people and times only: a package can write the same lines. */
class Stages {
  readonly #job: BuildJob;
  current: BuildPhase | undefined;
  section: string | undefined;
  #since = 0;
  #line = '';

  constructor(job: BuildJob) {
    this.#job = job;
  }

  push(chunk: Buffer): void {
    const lines = (this.#line + chunk.toString('latin1')).split('\n');
    this.#line = (lines.pop() ?? '').slice(0, LINE_LENGTH);
    for (const line of lines) this.#look(line);
  }

  end(failed: boolean): void {
    if (failed) this.#job.timeline.fail(this.current ?? 'build');
    this.#leave(failed ? 'fail' : 'finish');
  }

  #look(line: string): void {
    const begun = partBegunBy(line);
    if (begun === undefined) return;
    this.section = begun.section;
    this.#enter(begun.phase);
  }

  #enter(phase: BuildPhase | undefined): void {
    if (phase === undefined || phase === this.current) return;
    this.#leave('finish');
    this.current = phase;
    this.#since = performance.now();
    this.#job.hooks.onPhase?.(phase, 'start');
  }

  #leave(event: 'finish' | 'fail'): void {
    if (this.current === undefined) return;
    this.#job.timeline.note(this.current, this.#since);
    this.#job.hooks.onPhase?.(this.current, event);
    this.current = undefined;
  }
}
