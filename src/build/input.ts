import { stat } from 'node:fs/promises';
import { KilnError } from '../errors.ts';
import { digestFile } from '../repository/cache.ts';
import { readIdentities } from '../rpm/read.ts';
import type { BuildRequest, BuildSource } from './request.ts';
import { TOP_DIRECTORY } from './rpmbuild.ts';

/** What is built, as far as the host can tell. */
export interface BuildInput {
  /** For {@link knownRequires}: equal for equal source packages. Undefined for a spec. */
  readonly digest: string | undefined;
  /** The package's name; of a spec: the file's, without `.spec`. Rejects with E_BUILD_SOURCE. */
  readonly name: Promise<string>;
}

/**
 * Looks at the source of a build. A source package's header is read in a confined child, which
 * takes its time: `name` comes later.
 * @throws KilnError E_BUILD_SOURCE: missing, unreadable; by `name`: no source package.
 */
export async function readInput(source: BuildSource, signal: AbortSignal): Promise<BuildInput> {
  if (source.kind === 'spec') return { digest: undefined, name: specName(source) };
  await regular(source.path, 'source package');
  const name = sourceName(source.path, signal);
  // Whoever awaits it hears of a failure; nobody may come to that.
  name.catch(() => undefined);
  return { digest: await digestFile(source.path, 'sha256'), name };
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

async function specName(source: BuildSource & { kind: 'spec' }): Promise<string> {
  await regular(source.path, 'spec file');
  const found = await stat(source.sources ?? '.').catch(() => undefined);
  if (source.sources !== undefined && found?.isDirectory() !== true) {
    throw new KilnError('E_BUILD_SOURCE', `there is no directory ${source.sources}`, {
      hint: '--sources names the directory with the files that the spec lists as Source and Patch',
    });
  }
  const file = source.path.slice(source.path.lastIndexOf('/') + 1);
  return file.replace(/\.spec$/, '');
}

async function regular(path: string, what: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile()) return;
  const why = found === undefined ? 'it does not exist' : 'it is no file';
  throw new KilnError('E_BUILD_SOURCE', `cannot read the ${what} ${path}: ${why}`);
}

/** What to copy into a box for this source. */
export function inputFiles(
  request: BuildRequest,
  top: string = TOP_DIRECTORY,
): { readonly source: string; readonly target: string }[] {
  const { source } = request;
  if (source.kind === 'srpm') return [{ source: source.path, target: `${top}/originals/` }];
  const spec = { source: source.path, target: `${top}/SPECS/` };
  if (source.sources === undefined) return [spec];
  return [spec, { source: `${source.sources}/.`, target: `${top}/SOURCES` }];
}
