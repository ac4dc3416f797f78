/** What layers are made of, and what has changed in one. */
import { type BigIntStats, readSync } from 'node:fs';
import type { Budget } from '../../artifacts/budget.ts';
import type { ByteString } from '../../artifacts/byte-string.ts';

export const KINDS = ['file', 'folder', 'link', 'fifo', 'device', 'socket'] as const;
export type EntryKind = (typeof KINDS)[number];

/** What has changed, whoever may run it. */
export interface FoundChange {
  readonly path: ByteString;
  readonly change: 'added' | 'changed' | 'removed';
  /** Of what was removed, what it was. */
  readonly kind: EntryKind;
  /** What it was before, where that is something else. */
  readonly was?: EntryKind | undefined;
  readonly size: number;
  readonly mode: number;
  readonly target?: ByteString | undefined;
  /** Made of something in the lower folder, by the kernel: renamed, or gone from there meanwhile. */
  readonly isCopy: boolean;
  /** A folder above what was asked for, that has to be there first. */
  readonly isAbove: boolean;
}

export interface Change extends FoundChange {
  /** The caller's own tools may run it: see PROTECTED. */
  readonly isProtected: boolean;
}

export interface Changes {
  readonly changes: readonly Change[];
  /** There are more than were asked for. */
  readonly truncated: boolean;
}

const MODE = 0o7777n;
const PIECE = 1 << 20;
const buffers = [Buffer.allocUnsafeSlow(PIECE), Buffer.allocUnsafeSlow(PIECE)] as const;

export function isSameContent(mine: number, theirs: number, size: number, budget: Budget): boolean {
  const [a, b] = buffers;
  for (let at = 0; at < size; ) {
    budget.spend('bytes', PIECE);
    const length = Math.min(PIECE, size - at);
    const [one, other] = [readSync(mine, a, 0, length, at), readSync(theirs, b, 0, length, at)];
    if (one !== other || !a.subarray(0, one).equals(b.subarray(0, other))) return false;
    if (one === 0) return true;
    at += one;
  }
  return true;
}

/** Whether a path is another, or below it. */
export function isWithin(path: ByteString, folder: ByteString): boolean {
  return path === folder || path.startsWith(`${folder}/`);
}

export function about({ size, mode }: BigIntStats) {
  return { size: Number(size), mode: Number(mode & MODE) };
}

export function kindOf(stats: BigIntStats): EntryKind {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'folder';
  if (stats.isSymbolicLink()) return 'link';
  if (stats.isFIFO()) return 'fifo';
  return stats.isSocket() ? 'socket' : 'device';
}
