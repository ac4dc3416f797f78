import { closeSync, constants, fchmodSync, fstatSync, openSync, realpathSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import {
  mkdirat,
  O_PATH,
  openat2,
  openDirectory,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
} from '../host/files/at.ts';
import { makingFilesAs } from '../host/process/user-namespace.ts';
import { Destination, type Owner } from './destination.ts';
import { Inventory } from './manifest.ts';
import { type ByteString, fromBytes, fromText, joinBytes, quoteName, toBytes } from './pattern.ts';
import { listDirectory } from './source.ts';
import { TreeCopy } from './tree-copy.ts';
import { type ArtifactWarning, Budget, type CopyLimits, Warnings } from './warning.ts';

/** PATH_MAX of linux/limits.h, without its NUL. */
const LONGEST_PATH = 4095;
/** In the sandbox a path is what it says, whatever links an image has, and never leaves the sandbox. */
const RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

/** One `--copy-in SRC:DST`. */
export interface CopyInItem {
  /** On the host, absolute or relative to the working directory of kiln. */
  readonly source: string;
  /** In the sandbox, absolute. */
  readonly target: string;
  /** What of a directory is left out: absolute paths of the host, without links. */
  readonly leaveOut?: readonly string[];
}

/** What to copy into a sandbox, before anything runs in it. */
export interface CopyInRequest {
  /** The sandbox's root as a directory descriptor; stays open, is the caller's. */
  readonly rootFd: number;
  readonly items: readonly CopyInItem[];
  /** Host ids of the user in the sandbox who gets the files: they must be mapped in it. */
  readonly owner: Owner;
  readonly limits?: Partial<CopyLimits>;
  readonly signal?: AbortSignal;
  /** Told of what is not copied as it is: special files, setuid bits. */
  readonly onWarning?: (warning: ArtifactWarning) => void;
}

/**
 * Copies files and directories of the host into a sandbox, as `docker cp` would: a target that is a
 * directory, or ends in a slash, takes the source under its own name; any other target is the name
 * it gets; a source that ends in `/.` is what is in that directory. Missing directories on the way
 * are made; what is there is replaced, existing directories are merged with.
 *
 * A source that is a symbolic link is followed, links below it are copied as links. Modes (without
 * setuid and setgid), times, holes and hard links are kept; everything belongs to `owner`.
 *
 * @throws KilnError E_COPY_IN (missing, unreadable or special source, unfit target, no room),
 * E_ARTIFACT_LIMIT; the signal's reason when aborted
 */
export async function copyIn(request: CopyInRequest): Promise<readonly ArtifactWarning[]> {
  const warnings = new Warnings(request.onWarning);
  const budget = new Budget(request.limits, request.signal);
  for (const item of request.items) await copyItem(request, item, budget, warnings);
  return warnings.finish();
}

async function copyItem(
  request: CopyInRequest,
  item: CopyInItem,
  budget: Budget,
  warnings: Warnings,
): Promise<void> {
  const source = findSource(item);
  const path = makingFilesAs(request.owner, () => placeFor(request.rootFd, item, source));
  const destination = new Destination({
    root: request.rootFd,
    resolve: RESOLVE,
    owner: request.owner,
    // Entries must be born as the owner's: it is a file system of another user namespace.
    writing: (act) => makingFilesAs(request.owner, act),
    replace: true,
    failure: (failed, cause) => cannotWrite(item, failed, cause),
  });
  const inventory = new Inventory(budget, LONGEST_PATH);
  const leaveOut = new Set(item.leaveOut?.map(fromText));
  const copy = new TreeCopy({ destination, inventory, budget, warnings, links: 'now', leaveOut });
  if (source.contentOnly && kindOf(request.rootFd, path) === 'directory') {
    await copyContentOf(source, path, { copy, budget, rootFd: request.rootFd });
  } else {
    const from = openSync(dirname(source.path), constants.O_RDONLY | constants.O_DIRECTORY);
    using _from = closing(from);
    const to = openat2(request.rootFd, parentOf(path), DIRECTORY);
    using _to = closing(to);
    const name = Buffer.from(basename(source.path));
    await copy.copy({ from, name, source: fromText(source.path), to, path, depth: 1 });
  }
  destination.finish();
  const skipped = warnings.all.find(({ code }) => INCOMPLETE.has(code));
  if (skipped !== undefined) throw copyFailed(item, skipped.message);
}

/** What is in the source directory goes into the directory `path`, which stays as it is. */
async function copyContentOf(
  source: Source,
  path: ByteString,
  { copy, budget, rootFd }: { copy: TreeCopy; budget: Budget; rootFd: number },
): Promise<void> {
  const from = openSync(source.path, constants.O_RDONLY | constants.O_DIRECTORY);
  using _from = closing(from);
  const to = openat2(rootFd, path === '' ? '.' : toBytes(path), DIRECTORY);
  using _to = closing(to);
  for (const name of listDirectory(from, budget)) {
    const bytes = fromBytes(name);
    await copy.copy({
      from,
      name,
      source: joinBytes(fromText(source.path), bytes),
      to,
      path: joinBytes(path, bytes),
      depth: 1,
    });
  }
}

const DIRECTORY = { flags: O_PATH | constants.O_DIRECTORY, resolve: RESOLVE };

/** What a job was to get and did not get is an error, not a warning. */
const INCOMPLETE: ReadonlySet<ArtifactWarning['code']> = new Set([
  'vanished',
  'changed',
  'unreadable',
]);

interface Source {
  /** Absolute, no link in it. */
  readonly path: string;
  /** The name it gets in a directory. */
  readonly name: string;
  readonly isDirectory: boolean;
  /** Only what is in it is meant. */
  readonly contentOnly: boolean;
}

function findSource(item: CopyInItem): Source {
  let path: string;
  try {
    path = realpathSync(item.source);
  } catch (cause) {
    throw copyFailed(item, 'there is no such file', cause);
  }
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW);
  using _fd = closing(fd);
  const stats = fstatSync(fd);
  if (!stats.isFile() && !stats.isDirectory()) {
    throw copyFailed(item, 'it is neither a file nor a directory');
  }
  return {
    path,
    name: basename(resolve(item.source)),
    isDirectory: stats.isDirectory(),
    contentOnly: stats.isDirectory() && /(^|\/)\.\/*$/.test(item.source),
  };
}

/** The path in the sandbox, without a leading slash, that the source becomes; its parent exists then. */
function placeFor(rootFd: number, item: CopyInItem, source: Source): ByteString {
  if (!item.target.startsWith('/')) throw copyFailed(item, 'the target is not an absolute path');
  const parts = item.target.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw copyFailed(item, 'the target has ".." in it');
  const target = fromText(parts.join('/'));
  const there = kindOf(rootFd, target);
  const intoDirectory = there === 'directory' || item.target.endsWith('/');
  if (there === 'other' && (source.isDirectory || item.target.endsWith('/'))) {
    throw copyFailed(item, 'the target is not a directory');
  }
  if (source.contentOnly || !intoDirectory) {
    makeDirectories(rootFd, item, parts.slice(0, -1));
    return target;
  }
  makeDirectories(rootFd, item, parts);
  const inside = joinBytes(target, fromText(source.name));
  if (!source.isDirectory && kindOf(rootFd, inside) === 'directory') {
    throw copyFailed(item, `${quoteName(inside)} is a directory there`);
  }
  return inside;
}

function kindOf(rootFd: number, path: ByteString): 'none' | 'directory' | 'other' {
  try {
    const how = { flags: O_PATH, resolve: RESOLVE };
    const fd = openat2(rootFd, path === '' ? '.' : toBytes(path), how);
    const isDirectory = fstatSync(fd).isDirectory();
    closeSync(fd);
    return isDirectory ? 'directory' : 'other';
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return 'none';
    if (hasErrno(error, 'ENOTDIR', 'ELOOP')) return 'other';
    throw error;
  }
}

function makeDirectories(rootFd: number, item: CopyInItem, parts: readonly string[]): void {
  for (let length = 1; length <= parts.length; length += 1) {
    const path = fromText(parts.slice(0, length).join('/'));
    const kind = kindOf(rootFd, path);
    if (kind === 'other') throw copyFailed(item, `${quoteName(path)} is not a directory`);
    if (kind === 'directory') continue;
    const parent = openat2(rootFd, parentOf(path), DIRECTORY);
    try {
      const name = parts[length - 1]!;
      mkdirat(parent, name, 0o700);
      const made = openDirectory(parent, name);
      fchmodSync(made, 0o755);
      closeSync(made);
    } catch (cause) {
      throw cannotWrite(item, path, cause);
    } finally {
      closeSync(parent);
    }
  }
}

function parentOf(path: ByteString): Buffer {
  const slash = path.lastIndexOf('/');
  return slash < 1 ? Buffer.from('.') : toBytes(path.slice(0, slash));
}

function copyFailed(item: CopyInItem, why: string, cause?: unknown): KilnError {
  return new KilnError(
    'E_COPY_IN',
    `${JSON.stringify(item.source)} cannot be copied into the sandbox: ${why}`,
    {
      hint: '--copy-in SRC:DST takes a file or directory of the host and an absolute path',
      details: { source: item.source, target: item.target },
      cause,
    },
  );
}

function cannotWrite(item: CopyInItem, path: ByteString, cause: unknown): KilnError {
  const full = hasErrno(cause, 'ENOSPC', 'EDQUOT');
  return new KilnError(
    'E_COPY_IN',
    `${JSON.stringify(item.source)} cannot be copied into the sandbox: ` +
      `/${toBytes(path).toString()} cannot be written`,
    {
      hint: full ? 'give the sandbox more room: --disk, --tmpfs' : 'choose another target',
      details: { source: item.source, target: item.target },
      cause,
    },
  );
}
