/**
 * Measuring and thinning out a cache that builds wrote: its tree is hostile, so it is walked by
 * descriptors, and no link is followed.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { listDirectory } from '../../../artifacts/source.ts';
import { Budget } from '../../../artifacts/warning.ts';
import { KilnError } from '../../../errors.ts';
import { hasErrno } from '../../../host/calls/libc.ts';
import { openDirectory, openPath, unlinkat } from '../../../host/files/at.ts';
import { treeUsage } from '../../../host/files/tree-usage.ts';

/** Directories within directories; what lies deeper counts, and stays until the cache is dropped. */
const MAX_DEPTH = 40;

/** Directory entries that are looked at; a cache with more is dropped as a whole. */
export const MAX_ENTRIES = 1_000_000;

/** Folders of a cache may take so much, bytes: they are not removed. */
const SLACK = 64 * 2 ** 20;

/** A file in a cache. */
interface CachedFile {
  /** From the cache's root, each one a name. */
  readonly folders: readonly Buffer[];
  readonly name: Buffer;
  /** On the disk. */
  readonly bytes: number;
  /** The later of access and change, milliseconds since 1970. */
  readonly used: number;
}

/** Opens a directory that is named by a path of the host's own. */
function openRoot(path: string): number {
  return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

/**
 * Deletes files below `path`, those used longest ago first, until what is left has at most `bytes`.
 * @throws KilnError E_ARTIFACT_LIMIT when there are more than a million; E_DISK, E_TREE_DEPTH when too much lies
 * too deep to be removed
 */
export async function thinOut(path: string, bytes: number, signal?: AbortSignal): Promise<void> {
  const files: CachedFile[] = [];
  await eachFile(path, signal, (file) => files.push(file));
  let sum = files.reduce((total, file) => total + file.bytes, 0);
  files.sort((a, b) => a.used - b.used);
  const root = openRoot(path);
  try {
    for (const file of files) {
      if (sum <= bytes) break;
      if (removeFile(root, file)) sum -= file.bytes;
    }
  } finally {
    closeSync(root);
  }
  // What lies too deep has not been seen.
  const left = treeUsage(path, { bytes: bytes + SLACK, entries: MAX_ENTRIES });
  if (left.bytes > bytes + SLACK)
    throw new KilnError(
      'E_DISK',
      `the cache ${path} has folders nested too deep to delete old files from it`,
      {
        hint: 'remove this folder: the next build makes a new cache',
      },
    );
}

function removeFile(root: number, { folders, name }: CachedFile): boolean {
  const opened: number[] = [];
  try {
    for (const folder of folders) opened.push(openDirectory(opened.at(-1) ?? root, folder));
    unlinkat(opened.at(-1) ?? root, name);
    return true;
  } catch (error) {
    // A build that goes on beside us moves things.
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR')) return false;
    throw error;
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

async function eachFile(
  path: string,
  signal: AbortSignal | undefined,
  visit: (file: CachedFile) => void,
): Promise<void> {
  const budget = new Budget({ visited: MAX_ENTRIES }, signal);
  const root = openRoot(path);
  try {
    await walk(root, [], budget, visit);
  } finally {
    closeSync(root);
  }
}

async function walk(
  directory: number,
  folders: readonly Buffer[],
  budget: Budget,
  visit: (file: CachedFile) => void,
): Promise<void> {
  for (const name of listDirectory(directory, budget)) {
    if (budget.due) await budget.breathe();
    let fd: number;
    try {
      fd = openPath(directory, name);
    } catch (error) {
      if (hasErrno(error, 'ENOENT')) continue;
      throw error;
    }
    try {
      const stats = fstatSync(fd);
      if (!stats.isDirectory()) {
        const used = Math.max(stats.atimeMs, stats.mtimeMs);
        visit({ folders, name, bytes: stats.blocks * 512, used });
      } else if (folders.length < MAX_DEPTH) {
        await inside(directory, name, (inner) => walk(inner, [...folders, name], budget, visit));
      }
    } finally {
      closeSync(fd);
    }
  }
}

async function inside(
  directory: number,
  name: Buffer,
  work: (inner: number) => Promise<void>,
): Promise<void> {
  let inner: number;
  try {
    inner = openDirectory(directory, name);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return;
    throw error;
  }
  try {
    await work(inner);
  } finally {
    closeSync(inner);
  }
}
