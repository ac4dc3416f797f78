/** Thins out a cache that builds wrote. Its tree is hostile: it is walked by descriptors, without following links. */
import { closeSync, constants, openSync } from 'node:fs';
import { Budget } from '../../../artifacts/budget.ts';
import { listDirectory } from '../../../artifacts/source.ts';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { unlessErrno } from '../../../host/calls/libc.ts';
import { openDirectory, statAt, unlinkat } from '../../../host/files/at.ts';
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

/**
 * Deletes files below `path`, those used longest ago first, until the rest has at most `bytes`.
 * @throws KilnError E_ARTIFACT_LIMIT when there are more than a million; E_DISK, E_TREE_DEPTH when too much lies
 * too deep to be removed
 */
export async function thinOut(path: string, bytes: number): Promise<void> {
  const files: CachedFile[] = [];
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
  using root = closing(openSync(path, flags));
  const budget = new Budget({ visited: MAX_ENTRIES }, undefined);
  await walk(root.fd, [], budget, (file) => files.push(file));
  let sum = files.reduce((total, file) => total + file.bytes, 0);
  files.sort((a, b) => a.used - b.used);
  for (const file of files) {
    if (sum <= bytes) break;
    if (removeFile(root.fd, file)) sum -= file.bytes;
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
  using opened = new DisposableStack();
  // A build that goes on beside us moves things.
  const removed = unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR'], () => {
    let at = root;
    for (const folder of folders) at = opened.adopt(openDirectory(at, folder), closeSync);
    unlinkat(at, name);
    return true;
  });
  return removed === true;
}

async function walk(
  directory: number,
  folders: readonly Buffer[],
  budget: Budget,
  visit: (file: CachedFile) => void,
): Promise<void> {
  for (const name of listDirectory(directory, budget)) {
    if (budget.due) await budget.breathe();
    const stats = statAt(directory, name);
    if (stats === undefined) continue;
    if (!stats.isDirectory()) {
      const used = Math.max(Number(stats.atimeMs), Number(stats.mtimeMs));
      visit({ folders, name, bytes: Number(stats.blocks) * 512, used });
    } else if (folders.length < MAX_DEPTH) {
      using inner = unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP'], () =>
        closing(openDirectory(directory, name)),
      );
      if (inner !== undefined) await walk(inner.fd, [...folders, name], budget, visit);
    }
  }
}
