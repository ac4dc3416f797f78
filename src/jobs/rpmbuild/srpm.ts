import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import type { Executed } from '../../sandbox/door/io.ts';
import type { BuildRun } from './build-run.ts';
import type { BuildSandbox } from './build-sandbox.ts';
import { runLogged } from './logged-command.ts';
import { BuildFailure, failedSection, notForThisMachine, whichLimit } from './outcome/outcome.ts';
import {
  BUILT_FOR,
  generateBuildRequires,
  isDynamic,
  MISSING_BUILDREQUIRES,
  makeSourcePackage,
  ONLY_FOR,
  queryGenerated,
  querySource,
  specOptions,
  unpackSource,
  withoutRpmlib,
} from './rpmbuild.ts';

/** What to do about a source package that rpm refuses. */
const VERIFY = '`kiln rpm verify FILE` tells whether the file is damaged';

/** What a source package asks for. */
export interface SourceRequires {
  readonly requires: readonly string[];
  /** The spec has %generate_buildrequires. */
  readonly dynamic: boolean;
}

/** How far a package's answer is read, in lines: no spec has that many BuildRequires. */
const MAX_REQUIRES = 20_000;

/**
 * Makes the source package in a sandbox with the macros of its image.
 * @throws BuildFailure E_BUILD_SRPM for a source package that cannot be unpacked, E_BUILD_SPEC for
 * a spec that rpmbuild does not take.
 * @param options `unpack`: SPECS and SOURCES are to be filled from the source package
 */
export async function makeSrpm(
  run: BuildRun,
  sandbox: BuildSandbox,
  { unpack } = { unpack: run.request.source.kind === 'srpm' },
): Promise<SourceRequires> {
  const { request } = run;
  const { topDirectory } = sandbox;
  await run.phase('srpm', async () => {
    if (unpack) {
      const end = await runLogged(run, sandbox, unpackSource(topDirectory));
      if (end.exitCode !== 0)
        throw failure('E_BUILD_SRPM', 'the source package cannot be unpacked', end, VERIFY);
    }
    const argv = makeSourcePackage(topDirectory, specOptions(request));
    const end = await runLogged(run, sandbox, argv);
    if (end.exitCode !== 0) {
      throw (
        notForThisMachine(end) ??
        failure('E_BUILD_SPEC', 'rpmbuild cannot make the source package', end, specHint(end))
      );
    }
  });
  return await run.phase('buildrequires', async () => {
    const answer = await query(run, sandbox, querySource(topDirectory));
    const lines = answer.filter(
      (line) => !line.startsWith(ONLY_FOR) && !line.startsWith(BUILT_FOR),
    );
    checkArchitecture(answer, request.target);
    return { requires: withoutRpmlib(lines), dynamic: isDynamic(lines) };
  });
}

/**
 * Runs %prep and %generate_buildrequires and returns all that they ask for.
 * @throws BuildFailure E_BUILD_FAILED when one of them fails.
 */
export async function dynamicRequires(run: BuildRun, sandbox: BuildSandbox): Promise<string[]> {
  return await run.phase('dynamic-buildrequires', async () => {
    const { topDirectory } = sandbox;
    const argv = generateBuildRequires(topDirectory, specOptions(run.request));
    const end = await runLogged(run, sandbox, argv);
    if (end.exitCode !== MISSING_BUILDREQUIRES) {
      const section = failedSection(end.output.lines()) ?? '%generate_buildrequires';
      throw failure('E_BUILD_FAILED', `${section} failed`, end);
    }
    return withoutRpmlib(await query(run, sandbox, queryGenerated(topDirectory)));
  });
}

/** Runs a command whose output is an answer: lines. */
async function query(
  run: BuildRun,
  sandbox: BuildSandbox,
  argv: readonly string[],
): Promise<string[]> {
  const command = run.command('build.log');
  const end = await sandbox.run(argv, { ...command, capture: MAX_REQUIRES * 200 });
  if (end.exitCode !== 0)
    throw failure('E_BUILD_SRPM', 'rpm cannot read the source package', end, VERIFY);
  const lines = end.stdout.toString('utf8').split('\n');
  // rpm warns of what it does not like beside what it was asked.
  return lines
    .filter((line) => line !== '' && !/^(warning|error): /.test(line))
    .slice(0, MAX_REQUIRES);
}

/**
 * rpmbuild itself says that a package is not for an architecture when it has built it.
 * @throws KilnError E_BUILD_ARCH
 */
function checkArchitecture(lines: readonly string[], target: string | undefined): void {
  const after = (start: string) =>
    lines.filter((line) => line.startsWith(start)).map((line) => line.slice(start.length));
  const only = after(ONLY_FOR).filter((arch) => arch !== '(none)');
  const arch = target?.split('-')[0] ?? after(BUILT_FOR)[0] ?? '';
  // What makes noarch packages is built anywhere.
  if (only.length === 0 || [arch, 'noarch'].some((it) => only.includes(it))) return;
  throw new KilnError(
    'E_BUILD_ARCH',
    `the package is not for ${arch}: its ExclusiveArch is ${only.join(', ')}`,
    { hint: 'build it where it is for, or for another architecture with --target' },
  );
}

/** What to do about a spec that rpmbuild does not take, by what it said. */
function specHint(end: Executed): string {
  const lines = end.output.lines();
  if (lines.some((line) => /^error: Bad (?:file|source): /.test(line))) {
    return 'a Source or Patch of the spec is missing: --sources names the directory that has it';
  }
  const place = lines.find((line) => /^error: .*\bline \d+: /.test(line));
  if (place !== undefined) return `mend the spec: ${place.slice('error: '.length, 200)}`;
  return 'mend the spec; build.log has all that rpmbuild said';
}

function failure(code: ErrorCode, what: string, end: Executed, hint?: string): BuildFailure {
  return new BuildFailure(code, what, end, whichLimit(end), hint);
}
