/**
 * Lists what the kernel wrote into an overlay's upper folder, as a confined child with the ids of the sandbox: a whiteout is
 * a character device 0:0, a folder that shows nothing of the one below has `user.overlay.opaque=y`. Source: overlayfs.rst.
 *
 * The folder is hostile and may change while it is read: names are looked up one by one below open folders, and nothing is
 * followed.
 */
import { type BigIntStats, constants, fstatSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import { type ByteString, fromBytes, joinBytes, toBytes } from '../../artifacts/byte-string.ts';
import { listEntries } from '../../artifacts/source.ts';
import { closing, getXattr } from '../../host/calls/descriptor.ts';
import { attempt, unlessErrno } from '../../host/calls/libc.ts';
import type { SingleTask, TaskContext } from '../../host/confine/task.ts';
import { openat2, openPath, readlinkat } from '../../host/files/at.ts';
import { about, type EntryKind, isWithin, kindOf } from './entry.ts';

export interface ListInput {
  /** Only these, and what is below or above; all if there are none. */
  readonly only: readonly ByteString[];
}

/** What lies in the upper folder, parents first. */
export interface LayerEntry {
  readonly path: ByteString;
  readonly kind: EntryKind | 'whiteout';
  readonly size: number;
  readonly mode: number;
  readonly target?: ByteString | undefined;
  readonly isOpaque?: boolean | undefined;
  /** Made of something in the lower folder, by the kernel: renamed, or gone from there meanwhile. */
  readonly isCopy?: boolean | undefined;
}

const BATCH = 500;
const READ = {
  flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY,
};

export const task: SingleTask = {
  async run(input, { fds: [upper = -1], emit }) {
    await new Listing((input as ListInput).only, emit).run(upper);
  },
};

class Listing {
  readonly #only: readonly ByteString[];
  readonly #emit: TaskContext['emit'];
  readonly #budget = new Budget();
  #batch: LayerEntry[] = [];

  constructor(only: readonly ByteString[], emit: TaskContext['emit']) {
    this.#only = only;
    this.#emit = emit;
  }

  async run(upper: number): Promise<void> {
    await this.#visit(upper, '', 1);
    this.#emit(this.#batch);
  }

  async #visit(folder: number, above: ByteString, depth: number): Promise<void> {
    this.#budget.checkDepth(depth);
    const entries = unlessErrno(['ENOENT'], () => listEntries(folder, this.#budget)) ?? [];
    for (const { name } of entries) {
      if (this.#budget.due) await this.#budget.breathe();
      const path = joinBytes(above, name);
      if (!this.#leadsTo(path)) continue;
      using entry = attempt(() => closing(openPath(folder, toBytes(name))));
      if (entry === undefined) continue;
      const stats = fstatSync(entry.fd, { bigint: true });
      this.#add(this.#entryAt(folder, name, path, entry.fd, stats));
      if (stats.isDirectory()) await this.#visit(entry.fd, path, depth + 1);
    }
  }

  #entryAt(
    folder: number,
    name: ByteString,
    path: ByteString,
    fd: number,
    stats: BigIntStats,
  ): LayerEntry {
    const isWhiteout = stats.isCharacterDevice() && stats.rdev === 0n;
    const kind: LayerEntry['kind'] = isWhiteout ? 'whiteout' : kindOf(stats);
    const entry = { path, kind, ...about(stats) };
    if (kind === 'link') return { ...entry, target: fromBytes(readlinkat(fd, '')) };
    if (kind !== 'file' && kind !== 'folder') return entry;
    const isFolder = kind === 'folder';
    const open = () => (isFolder ? openat2(fd, '.', READ) : openat2(folder, toBytes(name), READ));
    using opened = attempt(() => closing(open()));
    if (opened === undefined || fstatSync(opened.fd, { bigint: true }).ino !== stats.ino)
      return entry;
    return {
      ...entry,
      isOpaque: kind === 'folder' && getXattr(opened.fd, 'user.overlay.opaque')?.toString() === 'y',
      isCopy: getXattr(opened.fd, 'user.overlay.origin') !== undefined,
    };
  }

  #add(entry: LayerEntry): void {
    if (this.#batch.push(entry) < BATCH) return;
    this.#emit(this.#batch);
    this.#batch = [];
  }

  #leadsTo(path: ByteString): boolean {
    const only = this.#only;
    return only.length === 0 || only.some((each) => isWithin(path, each) || isWithin(each, path));
  }
}
