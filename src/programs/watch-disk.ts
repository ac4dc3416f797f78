/** The thread of a DiskWatch (src/host/state/disk-watch.ts). */
import { statfsSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { isKilnCode } from '../errors.ts';
import { type TreeUsage, treeUsage } from '../host/files/tree-usage.ts';
import {
  type DiskVerdict,
  isLow,
  killVictim,
  type Victim,
  type WatchJob,
  type WatchRequest,
} from '../host/state/disk-watch.ts';

/** What a disk is reckoned to take at most: bytes, and new files, in a millisecond. */
const BYTES_PER_MS = 8 * 2 ** 20;
const FILES_PER_MS = 1000;

/** Milliseconds between two looks at what is free, which takes some microseconds. */
const SHORTEST = 10;
const LONGEST = 250;

/** Of a tree, whose counting takes long: as a multiple of that, and at least, milliseconds. */
const COUNTING_SHARE = 20;
const SHORTEST_COUNTING = 1000;

const UNBOUNDED = { bytes: Number.POSITIVE_INFINITY, entries: Number.POSITIVE_INFINITY };

interface Free {
  readonly bytes: number;
  readonly files: number;
}

const job = workerData as WatchJob;
let counted: { readonly usage: TreeUsage; readonly at: number; readonly took: number } & Free;
let timer: NodeJS.Timeout | undefined;
let victim: Victim | undefined;
let ended = false;
let before: TreeUsage | undefined;

function free(): Free & { readonly low: boolean; readonly kept: number } {
  const { path, reserve } = job;
  const stats = statfsSync(path);
  const { bavail, blocks, bsize, files, ffree } = stats;
  const kept = Math.min(reserve.bytes, blocks * bsize * reserve.share);
  // Some file systems count no inodes.
  const left = files > 0 ? ffree : Number.POSITIVE_INFINITY;
  return { bytes: bavail * bsize, files: left, kept, low: isLow(stats, reserve) };
}

function look(): number | undefined {
  const { bound } = job;
  const now = free();
  if (now.low) {
    end('low');
    return undefined;
  }
  let left: Free = { bytes: now.bytes - now.kept, files: now.files };
  if (bound !== undefined) {
    const since = performance.now() - counted.at;
    const room = () => ({
      bytes: bound.bytes - counted.usage.bytes - Math.max(0, counted.bytes - now.bytes),
      // Where inodes are not counted, the difference of what is left is no number.
      files: bound.entries - counted.usage.entries - Math.max(0, counted.files - now.files || 0),
    });
    // What others write looks the same from here: only counting tells. A file system may also tell late.
    const full = room().bytes <= 0 || room().files <= 0;
    const pause = Math.max(SHORTEST_COUNTING, counted.took * COUNTING_SHARE);
    if ((full && since > counted.took) || since > pause) {
      const verdict = count();
      if (verdict !== undefined) {
        end(verdict);
        return undefined;
      }
    }
    left = {
      bytes: Math.min(left.bytes, room().bytes),
      files: Math.min(left.files, room().files),
    };
  }
  const soon = Math.min(left.bytes / BYTES_PER_MS, left.files / FILES_PER_MS) / 2;
  return Math.min(Math.max(soon, SHORTEST), LONGEST);
}

function count(): DiskVerdict | undefined {
  const { bound } = job;
  if (bound === undefined) return undefined;
  const at = performance.now();
  const { bytes, files } = free();
  let all: TreeUsage;
  try {
    all = treeUsage(bound.tree, before === undefined ? UNBOUNDED : plus(before, bound));
  } catch (error) {
    if (isKilnCode(error, 'E_TREE_DEPTH')) return 'deep';
    throw error;
  }
  before ??= all;
  const usage = { bytes: all.bytes - before.bytes, entries: all.entries - before.entries };
  const now = performance.now();
  counted = { usage, at: now, took: now - at, bytes, files };
  if (usage.bytes > bound.bytes) return 'bytes';
  return usage.entries > bound.entries ? 'entries' : undefined;
}

function plus(a: TreeUsage, b: TreeUsage): TreeUsage {
  return { bytes: a.bytes + b.bytes, entries: a.entries + b.entries };
}

function answer(verdict: DiskVerdict): void {
  parentPort?.postMessage(verdict);
}

/** Kills at once what writes: the thread that has started it may be busy. It is told first, and so knows why. */
function end(verdict: DiskVerdict): void {
  clearTimeout(timer);
  ended = true;
  answer(verdict);
  killVictim(victim);
}

function turn(): void {
  const pause = look();
  if (pause !== undefined) timer = setTimeout(turn, pause);
}

parentPort?.on('message', (request: WatchRequest) => {
  if (typeof request === 'object') {
    ({ victim } = request);
    if (ended) killVictim(victim);
    return;
  }
  clearTimeout(timer);
  if (request === 'finish') answer(count() ?? 'fine');
  // The thread ends by itself: one that is terminated while it counts leaves descriptors open.
  else parentPort?.close();
});

counted = { usage: { bytes: 0, entries: 0 }, at: performance.now(), took: 0, ...free() };
const first = count();
if (first === undefined) turn();
else end(first);
answer('ready');
