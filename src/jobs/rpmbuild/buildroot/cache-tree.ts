/** Thins out a cache that builds wrote. Its tree is hostile: it is walked by descriptors, without following links. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { Budget } from '../../../artifacts/budget.ts';
import { listDirectory } from '../../../artifacts/source.ts';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { hasErrno } from '../../../host/calls/libc.ts';
import { openDirectory, openPath, unlinkat } from '../../../host/files/at.ts';
import { treeUsage } from '../../../host/files/tree-usage.ts';

/** Files in deeper directories count, and stay until the cache is dropped. */
const MAX_DEPTH = 40;

/** A cache with more directory entries is dropped as a whole. */
export const MAX_ENTRIES = 1_000_000;

/** Bytes of folders, which are not removed. */
const SLACK = 64 * 2 ** 20;

interface CachedFile {
  readonly folders: readonly Buffer[];
  readonly name: Buffer;
  readonly bytes: number;
  /** The later of access and change, milliseconds since 1970. */
  readonly used: number;
}

function openRoot(path: string): number {
  return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

/**
 * Deletes files below `path`, those used longest ago first, until the rest has at most `bytes`.
 * @throws KilnError E_ARTIFACT_LIMIT when there are more than a million; E_DISK, E_TREE_DEPTH when too much lies
 * too deep to be removed
 */
export async function thinOut(path: string, bytes: number): Promise<void> {
  const files: CachedFile[] = [];
  const root = openRoot(path);
  using _root = closing(root);
  const budget = new Budget({ visited: MAX_ENTRIES }, undefined);
  await walk(root, [], budget, (file) => files.push(file));
  let sum = files.reduce((total, file) => total + file.bytes, 0);
  files.sort((a, b) => a.used - b.used);
  for (const file of files) {
    if (sum <= bytes) break;
    if (removeFile(root, file)) sum -= file.bytes;
  }
  // Files that lie too deep have not been seen.
  const left = treeUsage(path, { bytes: bytes + SLACK, entries: MAX_ENTRIES });
  if (left.bytes <= bytes + SLACK) return;
  const what = `the cache ${path} has folders nested too deep to delete old files from it`;
  throw new KilnError('E_DISK', what, {
    hint: 'remove this folder: the next build makes a new cache',
  });
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
    using _fd = closing(fd);
    const stats = fstatSync(fd);
    if (!stats.isDirectory()) {
      const used = Math.max(stats.atimeMs, stats.mtimeMs);
      visit({ folders, name, bytes: stats.blocks * 512, used });
    } else if (folders.length < MAX_DEPTH) {
      const inner = openInner(directory, name);
      if (inner === undefined) continue;
      using _inner = closing(inner);
      await walk(inner, [...folders, name], budget, visit);
    }
  }
}

function openInner(directory: number, name: Buffer): number | undefined {
  try {
    return openDirectory(directory, name);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
}
