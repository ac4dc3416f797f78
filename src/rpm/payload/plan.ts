/**
 * What unpacking a package will write, decided from its header before anything is written, and
 * refused as a whole when any of it could do harm.
 */

import type { RpmDescription } from '../describe.ts';
import { rpmError } from '../errors.ts';
import { showName } from '../filename.ts';
import type { RpmFile } from '../package.ts';

/** Bounds on what one package may write. */
export interface UnpackLimits {
  /** Bytes of all its files together. */
  readonly unpackedSize: number;
}

export interface PlannedFile extends RpmFile {
  /** The path without its leading slash; `''` for the root itself. */
  readonly relative: string;
  /** Files that are the same inode, in header order, this one among them; undefined for one alone. */
  readonly links: LinkGroup | undefined;
  readonly ghost: boolean;
}

interface LinkGroup {
  readonly members: PlannedFile[];
}

export interface UnpackPlan {
  readonly files: readonly PlannedFile[];
  readonly byPath: ReadonlyMap<string, PlannedFile>;
}

/** Features a package may ask its installer for (rpm's lib/rpmds.cc). All concern reading it. */
const FEATURES = new Set([
  ...['BuiltinLuaScripts', 'CaretInVersions', 'CompressedFileNames', 'ConcurrentAccess'],
  ...['DynamicBuildRequires', 'ExplicitPackageProvide', 'FileCaps', 'FileDigests'],
  ...['HeaderLoadSortsTags', 'LargeFiles', 'PartialHardlinkSets', 'PayloadFilesHavePrefix'],
  ...['PayloadIsBzip2', 'PayloadIsLzma', 'PayloadIsXz', 'PayloadIsZstd', 'RichDependencies'],
  ...['ScriptletExpansion', 'ScriptletInterpreterArgs', 'TildeInVersions'],
  ...['VersionedDependencies', 'ShortCircuited'],
]);

/** @throws KilnError E_RPM_HOSTILE, E_RPM_UNSUPPORTED. */
export function planUnpack(rpm: RpmDescription, limits: UnpackLimits): UnpackPlan {
  checkFeatures(rpm);
  const groups = new Map<string, LinkGroup>();
  const byPath = new Map<string, PlannedFile>();
  let total = 0;
  const files = rpm.files.map((file) => {
    const ghost = file.flags.includes('ghost');
    const planned: PlannedFile = {
      ...file,
      relative: relativePath(file.path, rpm.isSource),
      links: file.nlink > 1 && !ghost ? groupOf(groups, file) : undefined,
      ghost,
    };
    if (byPath.has(planned.relative)) {
      throw rpmError('E_RPM_HOSTILE', `it has ${showName(file.path)} twice`);
    }
    byPath.set(planned.relative, planned);
    planned.links?.members.push(planned);
    const counts = file.type === 'file' && !ghost && (planned.links?.members.length ?? 1) === 1;
    if (counts) total += file.size;
    return planned;
  });
  if (total > limits.unpackedSize) {
    throw rpmError('E_RPM_HOSTILE', `it would unpack to ${total} bytes`, {
      hint: `at most ${limits.unpackedSize} bytes are allowed for one package`,
    });
  }
  checkParents(files, byPath);
  return { files, byPath };
}

function checkFeatures({ dependencies }: RpmDescription): void {
  for (const { name } of dependencies.requires) {
    const feature = /^rpmlib\((.*)\)$/.exec(name)?.[1];
    if (feature !== undefined && !FEATURES.has(feature)) {
      throw rpmError('E_RPM_UNSUPPORTED', `it needs ${name}, which kiln does not have`);
    }
  }
}

function groupOf(groups: Map<string, LinkGroup>, { device, inode }: RpmFile): LinkGroup {
  const key = `${device}:${inode}`;
  let group = groups.get(key);
  if (group === undefined) {
    group = { members: [] };
    groups.set(key, group);
  }
  return group;
}

/** Absolute and normal, or in a source package a bare name. */
function relativePath(path: string, isSource: boolean): string {
  const absolute = path.startsWith('/');
  const relative = absolute ? path.slice(1) : path;
  if (relative === '' && absolute) return relative;
  const parts = relative.split('/');
  const wrong = (part: string) => part === '' || part === '.' || part === '..';
  if (absolute === isSource || parts.some(wrong) || (isSource && parts.length > 1)) {
    throw rpmError('E_RPM_HOSTILE', `its file ${showName(path)} is not at a plain path`);
  }
  return relative;
}

/** Whatever has files below it must be a directory: no file is written through a link. */
function checkParents(
  files: readonly PlannedFile[],
  byPath: ReadonlyMap<string, PlannedFile>,
): void {
  if ((byPath.get('')?.type ?? 'directory') !== 'directory') {
    throw rpmError('E_RPM_HOSTILE', 'it makes / something else than a directory');
  }
  const good = new Set<string>();
  for (const { relative, path } of files) {
    for (let end = relative.lastIndexOf('/'); end > 0; end = relative.lastIndexOf('/', end - 1)) {
      const parent = relative.slice(0, end);
      if (good.has(parent)) break;
      good.add(parent);
      const type = byPath.get(parent)?.type ?? 'directory';
      if (type === 'directory') continue;
      const what = type === 'symlink' ? 'a symbolic link' : `a ${type}`;
      throw rpmError(
        'E_RPM_HOSTILE',
        `its file ${showName(path)} is below /${showName(parent)}, which it makes ${what}`,
      );
    }
  }
}
