import { type BigIntStats, closeSync, fstatSync } from 'node:fs';
import { hasErrno, SyscallError } from '../host/calls/libc.ts';
import { openPath } from '../host/files/at.ts';
import {
  type ArtifactPattern,
  type ByteString,
  fromText,
  joinBytes,
  literalNames,
  matchText,
  type PatternState,
  step,
  toBytes,
} from './pattern.ts';
import { type DirectoryEntry, listEntries } from './source.ts';
import type { TreeCopy } from './tree-copy.ts';
import type { Budget, Warnings } from './warning.ts';

/** A directory on the way to what may match. Its copy is made only when something in it matches. */
interface Frame {
  readonly fd: number;
  readonly stats: BigIntStats;
  readonly source: ByteString;
  /** Its path in the destination; empty for the pattern's base. */
  readonly path: ByteString;
  readonly parent: Frame | undefined;
  readonly depth: number;
  /** Descriptor of its copy, once there is one. */
  copy: number | undefined;
}

/** What a {@link PatternWalk} works with. */
export interface PatternWalkOptions {
  readonly copy: TreeCopy;
  readonly budget: Budget;
  readonly warnings: Warnings;
  /** Descriptor of the directory that matches go into. */
  readonly staging: number;
}

/** Walks down from a pattern's base, only where something can match, and copies what does. */
export class PatternWalk {
  readonly #options: PatternWalkOptions;
  readonly #matches: ByteString[] = [];
  #directoriesOnly = false;

  constructor(options: PatternWalkOptions) {
    this.#options = options;
  }

  /** Destination paths of what matched, copied or not. */
  get matches(): readonly ByteString[] {
    return this.#matches;
  }

  /** @param base descriptor of the pattern's base directory */
  async run(pattern: ArtifactPattern, base: number, stats: BigIntStats): Promise<void> {
    const source = fromText(pattern.base.replace(/\/+$/, ''));
    const { staging } = this.#options;
    const frame = { fd: base, stats, source, path: '', parent: undefined, depth: 1, copy: staging };
    this.#directoriesOnly = pattern.directoriesOnly;
    await this.#visit(frame, pattern.start);
  }

  async #visit(frame: Frame, state: PatternState): Promise<void> {
    if (this.#options.copy.isPseudo(frame.fd, frame.stats)) {
      const what = 'is a pseudo file system: skipped';
      this.#options.warnings.add('pseudo-filesystem', frame.source, what);
      return;
    }
    this.#options.budget.checkDepth(frame.depth);
    const matches: DirectoryEntry[] = [];
    const inner: { readonly name: ByteString; readonly state: PatternState }[] = [];
    for (const entry of this.#candidates(frame, state)) {
      const { matched, below } = step(state, matchText(entry.name));
      if (matched) matches.push(entry);
      else if (below.length > 0) inner.push({ name: entry.name, state: below });
    }
    await this.#take(frame, matches);
    for (const { name, state: below } of inner) await this.#descend(frame, name, below);
  }

  /** What in the directory could match: without reading it where the pattern has names. */
  #candidates(frame: Frame, state: PatternState): readonly DirectoryEntry[] {
    const literal = literalNames(state);
    if (literal !== undefined) {
      this.#options.budget.spend('visited', literal.size);
      return [...literal].map((name) => ({ name: fromText(name), isFile: false }));
    }
    try {
      return listEntries(frame.fd, this.#options.budget);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      const what = `cannot be read (${error.errnoName}): skipped`;
      this.#options.warnings.add('unreadable', frame.source, what);
      return [];
    }
  }

  async #take(frame: Frame, entries: readonly DirectoryEntry[]): Promise<void> {
    const { budget, copy } = this.#options;
    const wanted: DirectoryEntry[] = [];
    for (const entry of entries) {
      if (budget.due) await budget.breathe();
      if (!this.#isWanted(frame, entry)) continue;
      wanted.push(entry);
      this.#matches.push(joinBytes(frame.path, entry.name));
    }
    if (wanted.length === 0) return;
    const { fd: from, source, path, depth } = frame;
    const to = this.#copyOf(frame);
    await copy.copyEntries({ from, to, source, path, depth }, wanted);
  }

  #isWanted(frame: Frame, { name, isFile }: DirectoryEntry): boolean {
    if (isFile) return !this.#directoriesOnly;
    const fd = openEntry(frame.fd, name);
    if (fd === undefined) return false;
    const wanted = !this.#directoriesOnly || fstatSync(fd).isDirectory();
    closeSync(fd);
    return wanted;
  }

  async #descend(frame: Frame, name: ByteString, state: PatternState): Promise<void> {
    const fd = openEntry(frame.fd, name);
    if (fd === undefined) return;
    const inner: Frame = {
      fd,
      stats: fstatSync(fd, { bigint: true }),
      source: `${frame.source}/${name}`,
      path: joinBytes(frame.path, name),
      parent: frame,
      depth: frame.depth + 1,
      copy: undefined,
    };
    try {
      if (inner.stats.isDirectory()) await this.#visit(inner, state);
    } finally {
      closeSync(fd);
      if (inner.copy !== undefined) closeSync(inner.copy);
    }
  }

  /** The copy of a directory, made now with those above it. */
  #copyOf(frame: Frame): number {
    if (frame.copy === undefined && frame.parent !== undefined) {
      const { path, source, stats } = frame;
      const made = { to: this.#copyOf(frame.parent), path, source };
      frame.copy = this.#options.copy.makeDirectory(made, stats);
    }
    return frame.copy ?? this.#options.staging;
  }
}

/** An entry that is gone, or never was, is no match. */
function openEntry(dirfd: number, name: ByteString): number | undefined {
  try {
    return openPath(dirfd, toBytes(name));
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'EACCES')) return undefined;
    throw error;
  }
}
