import { constants, fstatSync } from 'node:fs';
import { runInNewContext } from 'node:vm';
import { Budget } from '../../../artifacts/budget.ts';
import { type ByteString, joinBytes, matchText, toBytes } from '../../../artifacts/byte-string.ts';
import { collectArtifacts } from '../../../artifacts/collect.ts';
import type { Artifact } from '../../../artifacts/manifest.ts';
import { type ArtifactPattern, compilePattern } from '../../../artifacts/pattern.ts';
import { FileSystems, listDirectory, listEntries } from '../../../artifacts/source.ts';
import { counted } from '../../../counted.ts';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { unlessErrno } from '../../../host/calls/libc.ts';
import { asKilnError } from '../../../host/calls/system-error.ts';
import { openDirectory, openInTree, statAt } from '../../../host/files/at.ts';
import { below } from '../../../host/files/held.ts';
import { nevra } from '../../../packages/rpm/dependency.ts';
import type { RpmIdentity } from '../../../packages/rpm/package.ts';
import { readIdentities } from '../../../packages/rpm/read.ts';
import { openArtifactTree } from '../../run/artifact-tree.ts';
import type { BuildJob } from '../build-job.ts';
import type { BuildSandbox } from '../build-sandbox.ts';
import { compare } from '../provenance/spdx.ts';
import { type Built, type BuiltPackage, NOTHING_BUILT, type Steps } from './report.ts';

/** More packages than any spec makes; each costs a line in result.json. */
const MAX_PACKAGES = 20_000;

interface Found {
  readonly pattern: ArtifactPattern;
  readonly file: string;
  readonly identity: RpmIdentity;
}

/**
 * Takes the steps that make packages, and collects what was made. After a failure, too, the report has what was
 * measured and what a scan finds.
 */
export async function* collected(job: BuildJob, sandbox: BuildSandbox, steps: Steps): Steps<Built> {
  let built = NOTHING_BUILT;
  const atEnd = async (failed: boolean) => {
    const artifacts = [...built.artifacts, ...(await scanRoot(job, sandbox, failed))];
    const { measured, ground } = sandbox.sandbox;
    const usage = ground.usage();
    return {
      ...built,
      artifacts,
      measured: measured && { ...measured, limits: ground.limits(), machine: ground.machine },
      usage,
    };
  };
  try {
    yield* steps;
    built = await job.phase('collect', () => collectPackages(job, sandbox));
    requirePackages(job, built);
  } catch (error) {
    yield await atEnd(true);
    throw error;
  }
  built = await atEnd(false);
  yield built;
  return built;
}

/**
 * Copies the packages of a build into the result directory. A confined child reads each before; a file that is no
 * package does not come out. All processes of the sandbox must be dead.
 * @throws KilnError E_BUILD_OUTPUT, E_SANDBOX_GONE, and what {@link collectArtifacts} throws
 */
async function collectPackages(job: BuildJob, sandbox: BuildSandbox): Promise<Built> {
  const { engine, request, signal, warn } = job;
  await using tree = await openArtifactTree(sandbox.sandbox.tree, {
    patterns: ['RPMS', 'SRPMS'].map((folder) => `${sandbox.topDirectory}/${folder}/*.rpm`),
    ...{ paths: engine.paths, workdir: '/', signal, warn },
  });
  const { rootFd } = tree;
  const patterns = tree.patterns.map((one) =>
    typeof one === 'string' ? compilePattern(one, '/') : one,
  );
  const found = await findPackages(rootFd, patterns, signal);
  const { artifacts } = await collectArtifacts({
    rootFd,
    patterns: patterns.filter((pattern) => found.some((entry) => entry.pattern === pattern)),
    workdir: '/',
    destination: request.resultDirectory,
    owner: request.caller,
    signal,
    onWarning: warn,
  });
  // Fails where the sandbox is gone: its mounts went with its init, and its tree was empty.
  await sandbox.sandbox.killAll();
  const byPath = new Map(artifacts.map((artifact) => [artifact.path, artifact]));
  const built = found.map((entry) => describe(entry, byPath.get(entry.file)));
  return {
    packages: built.filter(({ isSource }) => !isSource).sort((a, b) => compare(a.file, b.file)),
    sourcePackage: built.find(({ isSource }) => isSource),
    artifacts,
  };
}

/** A whole build without packages is a mistake in the spec. @throws KilnError E_BUILD_OUTPUT */
function requirePackages({ request, timeline }: BuildJob, { packages }: Built): void {
  const { shortCircuit, stopAfter } = request;
  const whole = shortCircuit === undefined || shortCircuit === 'binary';
  if (packages.length > 0 || stopAfter !== undefined || !whole) return;
  timeline.fail('collect');
  throw new KilnError('E_BUILD_OUTPUT', 'rpmbuild succeeded, but made no package', {
    hint: 'a spec makes a package for each %files section',
  });
}

/** The packages in the folders of these patterns, without links or devices of such names. */
async function findPackages(
  rootFd: number,
  patterns: readonly ArtifactPattern[],
  signal: AbortSignal,
): Promise<Found[]> {
  const budget = new Budget(undefined, signal);
  using opened = new DisposableStack();
  const files: {
    readonly pattern: ArtifactPattern;
    readonly file: string;
    readonly path: string;
  }[] = [];
  for (const pattern of patterns) {
    const { base, title = base } = pattern;
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const fd = opened.use(openInTree(rootFd, base, flags))?.fd;
    if (fd === undefined) continue;
    for (const name of listDirectory(fd, budget)) {
      const file = name.toString();
      if (!file.endsWith('.rpm') || !isFile(fd, name, title)) continue;
      files.push({ pattern, file, path: `/proc/self/fd/${fd}/${file}` });
    }
  }
  if (files.length > MAX_PACKAGES) {
    throw new KilnError('E_BUILD_OUTPUT', `the build made ${files.length} packages`, {
      hint: `${MAX_PACKAGES} are the most that kiln takes`,
    });
  }
  const found: Found[] = [];
  const paths = files.map(({ path }) => path);
  for await (const result of readIdentities(paths, { signal })) {
    const { pattern, file } = files[result.index]!;
    if (result.error !== undefined) throw notAPackageError(file, result.error);
    found.push({ pattern, file, identity: result.package });
  }
  return found;
}

function isFile(folder: number, name: Buffer, path: string): boolean {
  const stats = statAt(folder, name);
  if (stats?.isDirectory() === true)
    throw notAPackageError(`${path}/${name}`, new Error('it is a folder'));
  return stats?.isFile() === true;
}

function notAPackageError(name: string, cause: Error): KilnError {
  return new KilnError('E_BUILD_OUTPUT', `the build made ${name}, which is not a package`, {
    cause,
    hint: 'only rpmbuild may write to RPMS and SRPMS; look for what else does in the spec',
  });
}

function describe({ file, identity }: Found, artifact: Artifact | undefined): BuiltPackage {
  return {
    file,
    nevra: nevra(identity),
    isSource: identity.isSource,
    sha256: artifact?.sha256 ?? '',
    size: artifact?.size ?? 0,
    identity,
  };
}

const SCAN_FOLDER = 'chroot_scan';

const LIMITS = { visited: 1_000_000, entries: 5_000, bytes: 4 * 2 ** 30, holes: 4 * 2 ** 30 };

/** For all names together, ms: a regular expression can take for ever. */
const MATCHING_TIME = 2000;

/** Copies the files of the request's `scan`. A failure is a warning: it must not hide one of the build. */
async function scanRoot(
  job: BuildJob,
  { sandbox }: BuildSandbox,
  failed: boolean,
): Promise<readonly Artifact[]> {
  const { scan, resultDirectory, caller } = job.request;
  if (scan === undefined || (scan.onlyFailed && !failed) || job.signal.aborted) return [];
  try {
    // Nothing may change the files meanwhile; fails where the sandbox is gone.
    await sandbox.killAll();
    return await sandbox.tree.withRoot(async (rootFd) => {
      const paths = matching(await regularFiles(rootFd, job.signal), scan.pattern);
      if (paths.length > LIMITS.entries) {
        throw new KilnError('E_ARTIFACT_LIMIT', `${paths.length} files match`, {
          hint: `${LIMITS.entries} are the most that are copied`,
        });
      }
      if (paths.length === 0) return [];
      const { artifacts } = await collectArtifacts({
        rootFd,
        patterns: [literal(paths)],
        workdir: '/',
        destination: below(resultDirectory, SCAN_FOLDER),
        owner: caller,
        limits: LIMITS,
        signal: job.signal,
        onWarning: job.warn,
      });
      const files = artifacts.filter(({ type }) => type === 'file');
      job.say(`${SCAN_FOLDER}: ${files.length} of ${counted(paths.length, 'file')} copied`);
      return artifacts.map((entry) => ({ ...entry, path: `${SCAN_FOLDER}/${entry.path}` }));
    });
  } catch (error) {
    const message = `${SCAN_FOLDER}: nothing is copied: ${asKilnError(error).message}`;
    job.warn({ code: 'scan', message });
    return [];
  }
}

/** Paths of all regular files below a directory, without following links or entering pseudo file systems. */
async function regularFiles(rootFd: number, signal: AbortSignal): Promise<ByteString[]> {
  const budget = new Budget(LIMITS, signal);
  const systems = new FileSystems();
  const found: ByteString[] = [];
  const visit = async (fd: number, path: ByteString, depth: number): Promise<void> => {
    budget.checkDepth(depth);
    if (systems.isPseudo(fd, fstatSync(fd, { bigint: true }))) return;
    for (const { name, isFile } of listEntries(fd, budget)) {
      if (budget.due) await budget.breathe();
      if (isFile) {
        found.push(joinBytes(path, name));
        continue;
      }
      using inner = unlessErrno(['ENOTDIR', 'ELOOP', 'ENOENT', 'EACCES'], () =>
        closing(openDirectory(fd, toBytes(name))),
      );
      if (inner !== undefined) await visit(inner.fd, joinBytes(path, name), depth + 1);
    }
  };
  await visit(rootFd, '', 1);
  return found;
}

function matching(paths: readonly ByteString[], pattern: string): readonly ByteString[] {
  const names = paths.map((path) => matchText(path.slice(path.lastIndexOf('/') + 1)));
  const context = { names, pattern: new RegExp(pattern) };
  // Only the time limit of a script interrupts a regular expression.
  const script = 'names.map((name) => pattern.test(name))';
  const matches: readonly boolean[] = runInNewContext(script, context, { timeout: MATCHING_TIME });
  return paths.filter((_, index) => matches[index]);
}

/** A pattern of exactly these paths. Names that are not UTF-8 are not found again. */
function literal(paths: readonly ByteString[]) {
  const start = paths.map((path) => ({ segments: path.split('/').map(matchText), at: 0 }));
  return { source: SCAN_FOLDER, base: '/', start, directoriesOnly: false };
}
