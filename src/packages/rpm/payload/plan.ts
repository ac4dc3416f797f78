/** What unpacking a package will write, refused as a whole when any of it could do harm. */

import { KilnError } from '../../../errors.ts';
import { sizeInWords } from '../../../host/calls/system-error.ts';
import type { RpmDescription } from '../describe.ts';
import { encodeName, showName } from '../filename.ts';
import { type RpmFile, rpmError } from '../package.ts';

export const MORE_DISK =
  '`disk` in the recipe of an image allows more, as `disk: 64G`, to users at most users.limits.disk and what is left of users.limits.storage';

export interface UnpackRoom {
  /** Bytes. */
  readonly unpackedSize: number;
  /** A hint. */
  readonly moreBy: string;
}

export interface PlannedFile extends RpmFile {
  readonly relative: string;
  readonly links: readonly PlannedFile[] | undefined;
  readonly ghost: boolean;
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

/** NAME_MAX of linux/limits.h, bytes. */
const NAME_MAX = 255;

/** PATH_MAX of linux/limits.h without its NUL, and for paths with room for where they go, bytes. */
const TARGET_MAX = 4095;
const PATH_MAX = TARGET_MAX - 95;

export function planUnpack(rpm: RpmDescription, room: UnpackRoom): UnpackPlan {
  checkFeatures(rpm);
  const byPath = new Map<string, PlannedFile>();
  const groups = new Map<string, PlannedFile[]>();
  const files = rpm.files.map((file) => {
    const relative = relativePath(file.path, rpm.isSource);
    const ghost = file.flags.includes('ghost');
    if (file.type === 'symlink' && !ghost) checkTarget(file);
    const links = file.nlink > 1 && !ghost ? groupOf(groups, file) : undefined;
    const planned: PlannedFile = { ...file, relative, links, ghost };
    links?.push(planned);
    if (byPath.has(relative)) {
      throw rpmError('E_RPM_HOSTILE', `it has ${showName(file.path)} twice`);
    }
    byPath.set(relative, planned);
    return planned;
  });
  checkSize(files, room);
  checkParents(files, byPath);
  return { files, byPath };
}

function groupOf(groups: Map<string, PlannedFile[]>, file: RpmFile): PlannedFile[] {
  const { device, inode, size, digest } = file;
  const key = [device, inode, size, digest].join(':');
  const group = groups.get(key) ?? [];
  groups.set(key, group);
  return group;
}

function checkSize(files: readonly PlannedFile[], { unpackedSize, moreBy }: UnpackRoom): void {
  let total = 0;
  for (const file of files) {
    const later = file.links !== undefined && file.links[0] !== file;
    if (file.type === 'file' && !file.ghost && !later) total += file.size;
  }
  if (total > unpackedSize) {
    throw new KilnError('E_DISK', `it would put ${sizeInWords(total)} on the disk`, {
      hint: `${sizeInWords(unpackedSize)} are allowed; ${moreBy}`,
    });
  }
}

function checkFeatures({ dependencies }: RpmDescription): void {
  for (const { name } of dependencies.requires) {
    const feature = /^rpmlib\((.*)\)$/.exec(name)?.[1];
    if (feature !== undefined && !FEATURES.has(feature)) {
      throw rpmError('E_RPM_UNSUPPORTED', `it needs ${name}, which kiln does not have`);
    }
  }
}

function relativePath(path: string, isSource: boolean): string {
  const absolute = path.startsWith('/');
  const relative = absolute ? path.slice(1) : path;
  if (relative === '' && absolute) return relative;
  const parts = relative.split('/');
  const wrong = (part: string) => part === '' || part === '.' || part === '..';
  if (absolute === isSource || parts.some(wrong) || (isSource && parts.length > 1)) {
    throw rpmError('E_RPM_HOSTILE', `its file ${showName(path)} is not at a plain path`);
  }
  if (isLonger(relative, PATH_MAX) || parts.some((part) => isLonger(part, NAME_MAX))) {
    throw rpmError('E_RPM_HOSTILE', `its file ${showName(path.slice(0, 80))}… has too long a name`);
  }
  return relative;
}

function isLonger(name: string, bytes: number): boolean {
  // A character has four bytes at most: most names need not be encoded to tell.
  return name.length * 4 > bytes && encodeName(name).length > bytes;
}

/** No file system takes others; better said before half of the package is there. */
function checkTarget({ path, linkTarget }: RpmFile): void {
  const length = encodeName(linkTarget ?? '').length;
  if (length > 0 && length <= TARGET_MAX) return;
  throw rpmError('E_RPM_HOSTILE', `the target of its link ${showName(path)} has ${length} bytes`);
}

/** Whatever has files below it must be a directory: no file is written through a link. */
function checkParents(
  files: readonly PlannedFile[],
  byPath: ReadonlyMap<string, PlannedFile>,
): void {
  if ((byPath.get('')?.type ?? 'directory') !== 'directory') {
    throw rpmError('E_RPM_HOSTILE', 'its file / is not a folder');
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
