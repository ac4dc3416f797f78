import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { CopyInItem } from '../../artifacts/copy-in.ts';
import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { SmallCache } from '../../host/state/small-cache.ts';
import { digestFile } from '../../packages/repository/cache.ts';
import { readIdentities } from '../../packages/rpm/read.ts';
import { awaitedLater } from '../../promise.ts';
import { resultPaths } from './outcome/result-files.ts';
import type { BuildRequest, BuildSource } from './request.ts';
import { TOP_DIRECTORY } from './rpmbuild.ts';

/** Names of source packages that are kept; each is a file of a few bytes. */
const KEPT = 4000;

/** What is built, as far as the host can tell. */
export interface BuildInput {
  /** `sha256:…` of the source package or the spec, as it was when the build began. */
  readonly digest: string;
  /** The package's name; of a spec: the file's, without `.spec`. Rejects with E_BUILD_SOURCE. */
  readonly name: Promise<string>;
}

/**
 * Looks at the source of a build. A source package's header is read in a confined child, which
 * takes its time: `name` comes later, unless the same file was read before.
 * @throws KilnError E_BUILD_SOURCE: missing, unreadable; by `name`: no source package.
 */
export async function readInput(
  source: BuildSource,
  paths: StatePaths,
  signal: AbortSignal,
): Promise<BuildInput> {
  const { path, spec } = source;
  await regular(path, source.kind === 'spec' ? 'spec file' : 'source package');
  if (spec !== undefined) await regular(spec, 'spec file');
  if (source.kind === 'spec') {
    await sourcesOf(source.sources);
    return { digest: await digestFile(path, 'sha256'), name: Promise.resolve(specName(path)) };
  }
  const digest = await digestFile(path, 'sha256');
  const cache = new SmallCache(join(paths.cache, 'names'), KEPT);
  const name = awaitedLater(nameOf(path, cache, digest.replace(':', '-'), signal));
  return { digest, name };
}

async function nameOf(
  path: string,
  cache: SmallCache,
  key: string,
  signal: AbortSignal,
): Promise<string> {
  const known = await cache.read(key);
  if (known) return known;
  const name = await sourceName(path, signal);
  await cache.write(key, name);
  return name;
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

async function sourcesOf(sources: string | undefined): Promise<void> {
  if (sources === undefined) return;
  const found = await stat(sources).catch(() => undefined);
  if (found?.isDirectory()) return;
  throw new KilnError('E_BUILD_SOURCE', `there is no directory ${sources}`, {
    hint: '--sources names the directory with the files that the spec lists as Source and Patch',
  });
}

function specName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1).replace(/\.spec$/, '');
}

async function regular(path: string, what: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return;
  const why = found === undefined ? 'it does not exist' : 'it is no file';
  throw new KilnError('E_BUILD_SOURCE', `cannot read the ${what} ${path}: ${why}`, {
    hint: 'give the path of a .src.rpm, or a .spec with --sources DIR for what it names',
  });
}

/** What to copy into a sandbox for this source. */
export function inputFiles(request: BuildRequest, top: string = TOP_DIRECTORY): CopyInItem[] {
  const { source, resultDirectory } = request;
  if (source.kind === 'srpm') {
    const originals = { source: source.path, target: `${top}/originals/` };
    if (source.spec === undefined) return [originals];
    return [originals, { source: source.spec, target: `${top}/replacement/` }];
  }
  const spec = { source: source.path, target: `${top}/SPECS/` };
  if (source.sources === undefined) return [spec];
  const leaveOut = resultPaths(resultDirectory, source.sources);
  return [spec, { source: `${source.sources}/.`, target: `${top}/SOURCES`, leaveOut }];
}
