/**
 * What a sandbox has changed in a folder of its caller's. A confined child lists the upper folder, which is hostile:
 * reader/list.c. The lower one is looked up with its owner's rights, and only where the upper one has an entry.
 */
import { type BigIntStats, fstatSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import { type ByteString, joinBytes, toBytes } from '../../artifacts/byte-string.ts';
import type { WithRights } from '../../artifacts/destination.ts';
import { listEntries, reopenFile } from '../../artifacts/source.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt, unlessErrno } from '../../host/calls/libc.ts';
import { ENTRY_BELOW, FILE_BELOW, openat2, readlinkat } from '../../host/files/at.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import {
  about,
  type Change,
  type Changes,
  type EntryKind,
  type FoundChange,
  isSameContent,
  isWithin,
  kindOf,
} from './entry.ts';
import { readLayers } from './read-layers.ts';
import { entrySchema, type LayerEntry } from './told.ts';

export interface WalkRequest {
  readonly upper: number;
  readonly lower: number;
  /** Of what looks into the lower folder. */
  readonly rights: WithRights;
  readonly most: number;
  /** Only these, and what is below; all if there are none. */
  readonly only: readonly ByteString[];
  /** Mount points: the init made them. */
  readonly mounts: readonly ByteString[];
  readonly protectedPaths: readonly ByteString[];
  /** Of the sandbox, which the upper folder's files belong to. */
  readonly range: IdRange;
  readonly signal?: AbortSignal | undefined;
}

/** @throws KilnError E_ARTIFACT_LIMIT where the layer is too deep, or has too many names; the signal's reason */
export async function readChanges(request: WalkRequest): Promise<Changes> {
  const walk = new Walk(request);
  const truncated = !(await walk.run());
  const changes = walk.changes.sort((a, b) => (a.path < b.path ? -1 : 1));
  return { changes, truncated };
}

class TooMany extends Error {}

class Walk {
  changes: Change[] = [];
  readonly #request: WalkRequest;
  readonly #budget: Budget;
  /** Folders that show nothing of the lower ones, with the names in them. */
  readonly #opaque = new Map<ByteString, Set<ByteString>>();
  /** New folders above mount points. */
  readonly #aboveMounts: ByteString[] = [];

  constructor(request: WalkRequest) {
    this.#request = request;
    this.#budget = new Budget({}, request.signal);
  }

  /** False if there is more. */
  async run(): Promise<boolean> {
    const { upper, only, range, signal } = this.#request;
    try {
      const listed = readLayers({
        ...{ words: ['list'], only, fds: [upper], range, signal },
        validate: (value) => entrySchema.array().parse(value),
      });
      for await (const entries of listed) for (const entry of entries) await this.#entry(entry);
      for (const [path, names] of this.#opaque) this.#hidden(path, names);
    } catch (error) {
      if (error instanceof TooMany) return false;
      throw error;
    }
    for (const path of this.#aboveMounts.reverse()) {
      if (this.changes.some((other) => other.path.startsWith(`${path}/`))) continue;
      this.changes = this.changes.filter((other) => other.path !== path);
    }
    return true;
  }

  async #entry(entry: LayerEntry): Promise<void> {
    if (this.#budget.due) await this.#budget.breathe(this.changes.length);
    const { path, kind } = entry;
    const slash = path.lastIndexOf('/');
    this.#opaque.get(path.slice(0, Math.max(0, slash)))?.add(path.slice(slash + 1));
    if (kind === 'whiteout') {
      this.#removed(path);
      return;
    }
    using below = this.#openBelow(path);
    const before = below && fstatSync(below.fd, { bigint: true });
    if (kind === 'folder') {
      if (entry.isOpaque === true && before?.isDirectory() === true) {
        this.#opaque.set(path, new Set());
      }
      this.#note(entry, before);
      const isAboveMount = this.#request.mounts.some((each) => isWithin(each, path));
      if (before === undefined && isAboveMount) this.#aboveMounts.push(path);
    } else if (!(kind === 'file' && entry.size === 0 && this.#request.mounts.includes(path))) {
      const isNew = before === undefined || before.isDirectory();
      if (isNew || this.#differs(entry, below?.fd ?? -1, before)) this.#note(entry, before);
    }
  }

  #hidden(path: ByteString, names: ReadonlySet<ByteString>): void {
    using lower = this.#openBelow(path);
    const there = lower && this.#asOwner(() => listEntries(lower.fd, this.#budget));
    for (const { name } of there ?? []) if (!names.has(name)) this.#removed(joinBytes(path, name));
  }

  #removed(path: ByteString): void {
    using below = this.#openBelow(path);
    if (below === undefined || !this.#isAskedFor(path)) return;
    const stats = fstatSync(below.fd, { bigint: true });
    // The lower folder may be one of an overlay itself.
    if (stats.isCharacterDevice() && stats.rdev === 0n) return;
    const more = { ...about(stats), isCopy: false, isAbove: false };
    this.#add({ path, change: 'removed', kind: kindOf(stats), ...more });
  }

  #note(entry: LayerEntry, before: BigIntStats | undefined): void {
    const { path, size, mode, target, isCopy = false } = entry;
    const kind = entry.kind as EntryKind;
    const isAbove = !this.#isAskedFor(path);
    const what = { path, kind, size, mode, target, isAbove };
    if (before === undefined) {
      this.#add({ ...what, change: 'added', isCopy });
      return;
    }
    if (isAbove) return;
    const was = kindOf(before);
    if (kind === 'folder' && was === 'folder' && mode === about(before).mode) return;
    this.#add({ ...what, change: 'changed', isCopy: true, ...(was === kind ? {} : { was }) });
  }

  #add(change: FoundChange): void {
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

  #differs({ path, kind, size, mode, target }: LayerEntry, lower: number, before: BigIntStats) {
    if (kind !== kindOf(before)) return true;
    if (kind === 'link') return !readlinkat(lower, '').equals(toBytes(target ?? ''));
    if (kind !== 'file') return true;
    const was = about(before);
    if (mode !== was.mode || size !== was.size) return true;
    // Opening a file to write, or `touch`, copies it into the layer.
    using mine = attempt(() => closing(openat2(this.#request.upper, toBytes(path), FILE_BELOW)));
    using theirs = this.#asOwner(() => closing(reopenFile(lower)));
    if (mine === undefined || theirs === undefined) return true;
    return !isSameContent(mine.fd, theirs.fd, size, this.#budget);
  }

  #openBelow(path: ByteString) {
    return this.#asOwner(() => closing(openat2(this.#request.lower, toBytes(path), ENTRY_BELOW)));
  }

  /** Undefined for what is not there, or closed to the owner, and so to the sandbox. */
  #asOwner<Result>(act: () => Result): Result | undefined {
    const absent = ['ENOENT', 'ENOTDIR', 'EACCES', 'ENAMETOOLONG', 'ELOOP'];
    return unlessErrno(absent, () => this.#request.rights(act));
  }

  #isAskedFor(path: ByteString): boolean {
    const { only } = this.#request;
    return only.length === 0 || only.some((each) => isWithin(path, each));
  }
}
