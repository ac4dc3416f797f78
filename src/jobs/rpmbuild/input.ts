import { lstatSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { CopyInItem } from '../../artifacts/copy-in.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { below } from '../../host/files/held.ts';
import { SmallCache } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { digestOf } from '../../image/key.ts';
import { digestFile } from '../../packages/repository/cache.ts';
import { readIdentities } from '../../packages/rpm/read.ts';
import type { Executed } from '../../sandbox/door/supervise.ts';
import type { BuildJob } from './build-job.ts';
import type { BuildSandbox } from './build-sandbox.ts';
import {
  BUILT_FOR,
  generateBuildRequires,
  isDynamic,
  MADE_FOR,
  MISSING_BUILDREQUIRES,
  makeSourcePackage,
  NOT_FOR,
  ONLY_FOR,
  queryGenerated,
  querySource,
  SOURCE_IS,
  specOptions,
  TOP_DIRECTORY,
  unpackSource,
  withoutRpmlib,
} from './commands.ts';
import { BuildFailure, failedSection, notForThisMachine } from './outcome/outcome.ts';
import { resultsIn } from './outcome/result-files.ts';
import type { BuildRequest, BuildSource } from './request.ts';

/** Source packages of which names and requirements are kept; each is a file of some hundred bytes. */
const KEPT = 4000;

export interface BuildInput {
  readonly digest: string;
  /** The package's name; of a spec: the file's, without `.spec`. */
  readonly name: string;
}

/**
 * Looks at the source of a build. A confined child reads the header of a source package, unless the same file was
 * read before.
 * @throws KilnError E_BUILD_SOURCE: missing, unreadable, no source package
 */
export async function readInput(
  source: BuildSource,
  paths: StatePaths,
  signal: AbortSignal,
): Promise<BuildInput> {
  const { path, spec } = source;
  await regular(path, source.kind === 'spec' ? 'spec file' : 'source package');
  if (spec !== undefined) await regular(spec, 'spec file');
  if (source.kind === 'spec') await checkSources(source.sources);
  const digest = await digestFile(path, 'sha256');
  if (source.kind === 'spec') return { digest, name: basename(path, '.spec') };
  const cache = new SmallCache(join(paths.cache, 'names'), KEPT);
  const key = digest.replace(':', '-');
  const known = await cache.read(key);
  if (known) return { digest, name: known };
  const name = await sourceName(path, signal);
  await cache.write(key, name);
  return { digest, name };
}

async function sourceName(path: string, signal: AbortSignal): Promise<string> {
  for await (const result of readIdentities([path], { signal })) {
    if (result.error !== undefined) {
      throw new KilnError('E_BUILD_SOURCE', `${path} is not a source package`, {
        cause: result.error,
        hint: '`kiln rpm query` tells what a file is',
      });
    }
    if (result.package.isSource) return result.package.name;
    throw new KilnError('E_BUILD_SOURCE', `${path} is a binary package, not a source package`, {
      hint: 'build from a .src.rpm, or from a spec with --spec',
    });
  }
  throw new TypeError('no answer about a file');
}

async function checkSources(sources: string | undefined): Promise<void> {
  if (sources === undefined) return;
  const found = await stat(sources).catch(() => undefined);
  if (found?.isDirectory()) return;
  const what = found === undefined ? `there is no folder ${sources}` : `${sources} is not a folder`;
  throw new KilnError('E_BUILD_SOURCE', what, {
    hint: '--sources names the folder with the files that the spec lists as Source and Patch',
  });
}

async function regular(path: string, what: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return;
  const why = found === undefined ? 'it does not exist' : 'it is not a file';
  throw new KilnError('E_BUILD_SOURCE', `cannot read the ${what} ${path}: ${why}`, {
    hint: 'give the path of a .src.rpm, or a .spec with --sources DIR for what it names',
  });
}

export function inputFiles(request: BuildRequest, top: string = TOP_DIRECTORY): CopyInItem[] {
  const { source, resultDirectory } = request;
  if (source.kind === 'srpm') {
    const originals = { source: source.path, target: `${top}/originals/` };
    if (source.spec === undefined) return [originals];
    return [
      originals,
      { source: source.spec, target: `${top}/replacement/${specName(source.spec)}` },
    ];
  }
  const spec = { source: source.path, target: `${top}/SPECS/${specName(source.path)}` };
  if (source.sources === undefined) return [spec];
  const leaveOut = resultsIn(resultDirectory, source.sources);
  return [spec, { source: below(source.sources, '.'), target: `${top}/SOURCES`, leaveOut }];
}

/** Whatever the file is called. */
function specName(path: string): string {
  return `${basename(path, '.spec')}.spec`;
}

/** What the same source package required in the same image when it was built last. */
export function knownRequires(
  paths: StatePaths,
  input: BuildInput,
  request: BuildRequest,
  baseImage: string,
) {
  const cache = new SmallCache(join(paths.cache, 'requires'), KEPT);
  const name = digestOf([input.digest, baseImage, specOptions(request)]);
  let known: string | undefined;
  return {
    async read(): Promise<string[] | undefined> {
      known = await cache.read(name);
      const requires: unknown = attempt(() => JSON.parse(known ?? ''));
      const whole = Array.isArray(requires) && requires.every((line) => typeof line === 'string');
      return whole ? requires : undefined;
    },
    async keep(requires: readonly string[]): Promise<void> {
      const text = JSON.stringify(requires);
      if (text !== known) await cache.write(name, text);
    },
  };
}

const VERIFY = '`kiln rpm verify FILE` tells whether the file is damaged';

/** Lines of an answer: no spec has that many BuildRequires. */
const MAX_REQUIRES = 20_000;

/**
 * Makes the source package in a sandbox with the macros of its image.
 * @param options `unpack`: fill SPECS and SOURCES from the source package
 * @throws BuildFailure E_BUILD_SRPM for a source package that cannot be unpacked, E_BUILD_SPEC for a spec that
 * rpmbuild refuses, E_BUILD_ARCH
 */
export async function makeSrpm(
  job: BuildJob,
  sandbox: BuildSandbox,
  { unpack } = { unpack: job.request.source.kind === 'srpm' },
) {
  const { request } = job;
  const { topDirectory } = sandbox;
  await job.phase('srpm', async () => {
    if (unpack) {
      const end = await job.logged(sandbox, unpackSource(topDirectory));
      const what = 'the source package cannot be unpacked';
      if (end.exitCode !== 0) throw new BuildFailure('E_BUILD_SRPM', what, end, VERIFY);
    }
    const end = await job.logged(sandbox, makeSourcePackage(topDirectory, specOptions(request)));
    if (end.exitCode === 0) return;
    const what = 'rpmbuild cannot make the source package';
    throw (
      notForThisMachine(end) ??
      new BuildFailure('E_BUILD_SPEC', what, end, specHint(end, request.source))
    );
  });
  return await job.phase('buildrequires', async () => {
    const answer = await query(job, sandbox, querySource(topDirectory));
    const about = [ONLY_FOR, NOT_FOR, MADE_FOR, BUILT_FOR, SOURCE_IS];
    const lines = answer.filter((line) => !about.some((start) => line.startsWith(start)));
    // A source package can be made anywhere.
    if (request.stopAfter !== 'srpm') checkArchitecture(answer, request.target);
    return { requires: withoutRpmlib(lines), dynamic: isDynamic(lines), nvr: nvrIn(answer) };
  });
}

/** Undefined for what is no name: the answer comes from the sandbox. */
function nvrIn(lines: readonly string[]): string | undefined {
  const said = lines.find((line) => line.startsWith(SOURCE_IS))?.slice(SOURCE_IS.length);
  return said !== undefined && /^[\w.+~^-]{1,255}$/.test(said) ? said : undefined;
}

export async function dynamicRequires(job: BuildJob, sandbox: BuildSandbox): Promise<string[]> {
  return await job.phase('dynamic-buildrequires', async () => {
    const { topDirectory } = sandbox;
    const argv = generateBuildRequires(topDirectory, specOptions(job.request));
    const end = await job.logged(sandbox, argv);
    if (end.exitCode !== MISSING_BUILDREQUIRES) {
      const section = failedSection(end.output.lines()) ?? '%generate_buildrequires';
      throw new BuildFailure('E_BUILD_FAILED', `${section} failed`, end);
    }
    return withoutRpmlib(await query(job, sandbox, queryGenerated(topDirectory)));
  });
}

async function query(
  job: BuildJob,
  sandbox: BuildSandbox,
  argv: readonly string[],
): Promise<string[]> {
  const command = { ...job.command('build.log'), capture: MAX_REQUIRES * 200 };
  const end = await job.logged(sandbox, argv, command);
  if (end.exitCode !== 0)
    throw new BuildFailure('E_BUILD_SRPM', 'rpm cannot read the source package', end, VERIFY);
  const lines = end.stdout.toString('utf8').split('\n');
  // rpm writes warnings between the lines of the answer.
  return lines
    .filter((line) => line !== '' && !/^(warning|error): /.test(line))
    .slice(0, MAX_REQUIRES);
}

/** Checks early: rpmbuild refuses an architecture after the build only. @throws KilnError E_BUILD_ARCH */
function checkArchitecture(lines: readonly string[], target: string | undefined): void {
  const after = (start: string) =>
    lines.filter((line) => line.startsWith(start)).map((line) => line.slice(start.length));
  const only = after(ONLY_FOR).filter((arch) => arch !== '(none)');
  const arch = target?.split('-')[0] ?? after(BUILT_FOR)[0] ?? '';
  const not = after(NOT_FOR);
  const isExcluded = not.includes(after(MADE_FOR)[0] ?? arch);
  if (!isExcluded && (only.length === 0 || [arch, 'noarch'].some((it) => only.includes(it))))
    return;
  const why = isExcluded
    ? `ExcludeArch is ${not.join(', ')}`
    : `ExclusiveArch is ${only.join(', ')}`;
  throw new KilnError('E_BUILD_ARCH', `the package is not for ${arch}: its ${why}`, {
    hint: 'build it where it is for, or for another architecture with --target',
  });
}

/** The most files that a hint names. */
const NAMES = 5;

function isLink(path: string): boolean {
  return attempt(() => lstatSync(path).isSymbolicLink()) ?? false;
}

function specHint(end: Executed, source: BuildSource): string {
  const lines = end.output.lines();
  const missing = lines.flatMap(
    (line) => /^error: Bad (?:file|source): (\S+): /.exec(line)?.[1] ?? [],
  );
  if (missing.length > 0) {
    const files = [...new Set(missing.map((path) => basename(path)))];
    const { sources } = { sources: undefined, ...source };
    const links = sources === undefined ? [] : files.filter((name) => isLink(join(sources, name)));
    const names = (links.length > 0 ? links : files).slice(0, NAMES).join(', ');
    if (links.length > 0) {
      return `a Source or Patch is a link to what is not in the folder of --sources (${names}), and links are not followed out of it: put the file itself there`;
    }
    return `a Source or Patch of the spec is missing (${names}): --sources names the folder that has it, such as \`--sources .\``;
  }
  const place = lines.find((line) => /^error: .*\bline \d+: /.test(line));
  if (place !== undefined) return `mend the spec: ${place.slice('error: '.length, 200)}`;
  return 'mend the spec; build.log has all that rpmbuild said';
}
