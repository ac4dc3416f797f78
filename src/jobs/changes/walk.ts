/**
 * What a sandbox has changed, from what the kernel wrote into an overlay's upper folder: a whiteout is a character
 * device 0:0, a folder that shows nothing of the one below has `user.overlay.opaque=y`. Source: overlayfs.rst.
 *
 * The folder is hostile and may change while it is read: names are looked up one by one below open folders, nothing is
 * followed, and nothing opened but regular files and folders. The lower folder is looked up with its owner's rights, and
 * only where the upper one has an entry.
 */
import { type BigIntStats, fstatSync, readSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import type { WithRights } from '../../artifacts/destination.ts';
import { type ByteString, fromBytes, joinBytes, toBytes } from '../../artifacts/pattern.ts';
import { listEntries, reopenFile } from '../../artifacts/source.ts';
import { closing, getXattrOf } from '../../host/calls/descriptor.ts';
import { attempt, unlessErrno } from '../../host/calls/libc.ts';
import { openPath, readlinkat } from '../../host/files/at.ts';

export type EntryKind = 'file' | 'folder' | 'link' | 'fifo' | 'device' | 'socket';

export interface Change {
  readonly path: ByteString;
  readonly change: 'added' | 'changed' | 'removed';
  /** Of what was removed, what it was. */
  readonly kind: EntryKind;
  /** What it was before, where that is something else. */
  readonly was?: EntryKind;
  readonly size: number;
  readonly mode: number;
  readonly target?: ByteString;
  /** The caller's own tools may run it: see PROTECTED. */
  readonly isProtected: boolean;
  /** Made of something in the lower folder, by the kernel: renamed, or gone from there meanwhile. */
  readonly isCopy: boolean;
  /** A folder above what was asked for, that has to be there first. */
  readonly isAbove: boolean;
}

export interface Changes {
  readonly changes: readonly Change[];
  /** There are more than were asked for. */
  readonly truncated: boolean;
}

export interface WalkRequest {
  readonly upper: number;
  readonly lower: number;
  /** Of what looks into the lower folder. */
  readonly rights: WithRights;
  readonly most: number;
  /** Only these, and what is below; all if there are none. */
  readonly only?: readonly ByteString[];
  /** Mount points: the init made them. */
  readonly mounts: readonly ByteString[];
  readonly protectedPaths: readonly ByteString[];
  /** The owner outside of the sandbox's root, where owners count. */
  readonly base?: number;
  readonly signal?: AbortSignal | undefined;
}

const MODE = 0o7777n;

const PIECE = 1 << 20;

/** @throws KilnError E_ARTIFACT_LIMIT where the layer is too deep, or has too many names; the signal's reason */
export async function readChanges(request: WalkRequest): Promise<Changes> {
  const walk = new Walk(request);
  const truncated = !(await walk.run());
  const changes = walk.changes.sort((a, b) => (a.path < b.path ? -1 : 1));
  return { changes, truncated };
}

class TooMany extends Error {}

interface Frame {
  readonly upper: number;
  readonly lower: number | undefined;
  /** The folder shows nothing of the lower one. */
  readonly isOpaque: boolean;
  readonly path: ByteString;
  readonly depth: number;
}

class Walk {
  readonly changes: Change[] = [];
  readonly #request: WalkRequest;
  readonly #budget: Budget;

  constructor(request: WalkRequest) {
    this.#request = request;
    this.#budget = new Budget({}, request.signal);
  }

  /** False if there is more. */
  async run(): Promise<boolean> {
    const { upper, lower } = this.#request;
    try {
      await this.#visit({ upper, lower, isOpaque: false, path: '', depth: 1 });
      return true;
    } catch (error) {
      if (error instanceof TooMany) return false;
      throw error;
    }
  }

  async #visit(frame: Frame): Promise<void> {
    const { upper, lower, isOpaque, path } = frame;
    this.#budget.checkDepth(frame.depth);
    const names = new Set<ByteString>();
    const entries = unlessErrno(['ENOENT'], () => listEntries(upper, this.#budget)) ?? [];
    for (const { name } of entries) {
      if (this.#budget.due) await this.#budget.breathe();
      names.add(name);
      await this.#entry(frame, name);
    }
    if (!isOpaque || lower === undefined) return;
    for (const { name } of this.#asOwner(() => listEntries(lower, this.#budget)) ?? []) {
      if (!names.has(name)) this.#removed(lower, name, joinBytes(path, name));
    }
  }

  async #entry(frame: Frame, name: ByteString): Promise<void> {
    const path = joinBytes(frame.path, name);
    if (!this.#leadsTo(path)) return;
    using entry = attempt(() => closing(openPath(frame.upper, toBytes(name))));
    if (entry === undefined) return;
    const stats = fstatSync(entry.fd, { bigint: true });
    if (stats.isCharacterDevice() && stats.rdev === 0n) {
      if (frame.lower !== undefined) this.#removed(frame.lower, name, path);
      return;
    }
    using below = this.#openBelow(frame.lower, name);
    const before = below && fstatSync(below.fd, { bigint: true });
    if (stats.isDirectory()) {
      const lower = before?.isDirectory() === true ? below?.fd : undefined;
      const at = this.changes.length;
      this.#note(path, entry.fd, stats, before);
      const isOpaque = getXattrOf(entry.fd, 'user.overlay.opaque')?.toString() === 'y';
      await this.#visit({ upper: entry.fd, lower, isOpaque, path, depth: frame.depth + 1 });
      const isEmpty = this.changes.length === at + 1;
      if (isEmpty && before === undefined && this.#isMountPoint(path)) this.changes.pop();
    } else if (!(stats.isFile() && stats.size === 0n && this.#request.mounts.includes(path))) {
      if (before?.isDirectory() !== stats.isDirectory() || before === undefined) {
        this.#note(path, entry.fd, stats, before);
      } else if (this.#differs(entry.fd, stats, below?.fd ?? -1, before)) {
        this.#note(path, entry.fd, stats, before);
      }
    }
  }

  #removed(lower: number, name: ByteString, path: ByteString): void {
    using below = this.#openBelow(lower, name);
    if (below === undefined || !this.#isAskedFor(path)) return;
    const stats = fstatSync(below.fd, { bigint: true });
    // The lower folder may be one of an overlay itself.
    if (stats.isCharacterDevice() && stats.rdev === 0n) return;
    const more = { ...about(stats), isCopy: false, isAbove: false };
    this.#add({ path, change: 'removed', kind: kindOf(stats), ...more });
  }

  #note(path: ByteString, fd: number, stats: BigIntStats, before: BigIntStats | undefined): void {
    const isAbove = !this.#isAskedFor(path);
    const kind = kindOf(stats);
    if (before === undefined) {
      const isCopy = getXattrOf(fd, 'user.overlay.origin') !== undefined;
      const more = { ...about(stats), ...linkOf(fd, kind), isCopy };
      this.#add({ path, change: 'added', kind, ...more, isAbove });
      return;
    }
    if (isAbove) return;
    const was = kindOf(before);
    if (kind === 'folder' && was === 'folder' && !this.#isOthers(stats, before)) return;
    this.#add({
      ...{ path, change: 'changed', kind, ...about(stats), ...linkOf(fd, kind) },
      ...{ isAbove, isCopy: true },
      ...(was === kind ? {} : { was }),
    });
  }

  #add(change: Omit<Change, 'isProtected'>): void {
    const { most, protectedPaths } = this.#request;
    if (this.changes.length >= most) throw new TooMany();
    const { path } = change;
    this.#budget.spend('paths', path.length);
    // What replaces or removes a folder above is as good as one that changes what is in it.
    const isWhole = change.kind !== 'folder' || change.change === 'removed';
    const isProtected = protectedPaths.some(
      (each) => isWithin(path, each) || (isWhole && isWithin(each, path)),
    );
    this.changes.push({ ...change, isProtected });
  }

  /** Mode, or owner where that counts. */
  #isOthers(stats: BigIntStats, before: BigIntStats): boolean {
    const { base } = this.#request;
    if ((stats.mode & MODE) !== (before.mode & MODE)) return true;
    if (base === undefined) return false;
    const [uid, gid] = [before.uid + BigInt(base), before.gid + BigInt(base)];
    return stats.uid !== uid || stats.gid !== gid;
  }

  #differs(fd: number, stats: BigIntStats, lower: number, before: BigIntStats): boolean {
    const kind = kindOf(stats);
    if (kind !== kindOf(before)) return true;
    if (kind === 'link') return !readlinkat(fd, '').equals(readlinkat(lower, ''));
    if (kind !== 'file') return true;
    if (this.#isOthers(stats, before) || stats.size !== before.size) return true;
    return !this.#isSame(fd, lower, Number(stats.size));
  }

  /** Whether two files have the same content. Opening one to write, or `touch`, copies it into the layer. */
  #isSame(fd: number, lower: number, size: number): boolean {
    using mine = attempt(() => closing(reopenFile(fd)));
    using theirs = this.#asOwner(() => closing(reopenFile(lower)));
    if (mine === undefined || theirs === undefined) return false;
    return isSameContent(mine.fd, theirs.fd, size, this.#budget);
  }

  #openBelow(lower: number | undefined, name: ByteString) {
    if (lower === undefined) return undefined;
    return this.#asOwner(() => closing(openPath(lower, toBytes(name))));
  }

  /** Undefined for what is not there, or closed to the owner, and so to the sandbox. */
  #asOwner<Result>(act: () => Result): Result | undefined {
    const absent = ['ENOENT', 'ENOTDIR', 'EACCES', 'ENAMETOOLONG'];
    return unlessErrno(absent, () => this.#request.rights(act));
  }

  #leadsTo(path: ByteString): boolean {
    const { only = [] } = this.#request;
    return only.length === 0 || only.some((each) => isWithin(path, each) || isWithin(each, path));
  }

  #isAskedFor(path: ByteString): boolean {
    const { only = [] } = this.#request;
    return only.length === 0 || only.some((each) => isWithin(path, each));
  }

  #isMountPoint(path: ByteString): boolean {
    return this.#request.mounts.some((each) => isWithin(each, path));
  }
}

const buffers = [Buffer.allocUnsafe(PIECE), Buffer.allocUnsafe(PIECE)] as const;

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

export function linkOf(fd: number, kind: EntryKind): { readonly target?: ByteString } {
  return kind === 'link' ? { target: fromBytes(readlinkat(fd, '')) } : {};
}

export function kindOf(stats: BigIntStats): EntryKind {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'folder';
  if (stats.isSymbolicLink()) return 'link';
  if (stats.isFIFO()) return 'fifo';
  return stats.isSocket() ? 'socket' : 'device';
}
