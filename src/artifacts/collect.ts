import { type BigIntStats, closeSync, constants, fstatSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno, SyscallError, unlessErrno } from '../host/calls/libc.ts';
import {
  O_PATH,
  openat2,
  openPath,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
} from '../host/files/at.ts';
import type { HeldPath } from '../host/files/held.ts';
import { Budget, type CopyLimits, type Room } from './budget.ts';
import {
  type ByteString,
  fromText,
  joinBytes,
  matchText,
  quoteName,
  toBytes,
} from './byte-string.ts';
import { Destination, type Owner } from './destination.ts';
import { type Artifact, describe, Inventory, LONGEST_PATH } from './manifest.ts';
import {
  type ArtifactPattern,
  compilePattern,
  literalNames,
  type PatternState,
  step,
} from './pattern.ts';
import { type DirectoryEntry, listEntries } from './source.ts';
import { openStaging } from './staging.ts';
import { TreeCopy } from './tree-copy.ts';
import { type Warning, Warnings } from './warning.ts';

export interface CollectRequest {
  /** The root of the tree: a directory descriptor (O_PATH will do), which stays open. */
  readonly rootFd: number;
  readonly patterns: readonly (string | ArtifactPattern)[];
  readonly workdir: string;
  readonly destination: HeldPath;
  /** Names at the top of the destination that kiln's own files have: an artifact would be lost, or be in their place. */
  readonly reserved?: readonly string[] | undefined;
  readonly owner: Owner;
  readonly limits?: Partial<CopyLimits>;
  readonly room?: Room;
  readonly signal?: AbortSignal;
  readonly onWarning?: (warning: Warning) => void;
}

export interface Collection {
  /** Sorted by path; a directory comes before what is in it. */
  readonly artifacts: readonly Artifact[];
  readonly warnings: readonly Warning[];
  readonly missing: readonly string[];
}

export function checkPatterns(patterns: readonly string[]): void {
  for (const source of patterns) compilePattern(source, '/');
}

/**
 * Copies what the patterns match out of a tree that may be hostile and may still change.
 *
 * A match keeps its path from the pattern's first wildcard on, as `cp -a` would put it: `out/*.rpm` gives `a.rpm`,
 * `out` gives `out/…`. Permission bits, times (ns), holes and hard links are kept; setuid and setgid bits, extended
 * attributes and ACLs are not. Links come out where they lead to something else that came out. The result directory
 * changes only when everything is there.
 * @throws KilnError E_ARTIFACT_PATTERN, E_ARTIFACT_LIMIT, E_ARTIFACT_COLLISION, E_ARTIFACT_WRITE, E_RESULTDIR
 */
export async function collectArtifacts(request: CollectRequest): Promise<Collection> {
  const patterns = request.patterns.map((pattern) =>
    typeof pattern === 'string' ? compilePattern(pattern, request.workdir) : pattern,
  );
  const warnings = new Warnings(request.onWarning);
  const budget = new Budget(request.limits, request.signal, request.room);
  await using staging = await openStaging(request.destination, request.owner);
  const destination = new Destination({
    root: staging.fd,
    owner: request.owner,
    replace: false,
    failure: (path, cause) => cannotWriteError(staging.destination, path, cause),
  });
  const room = LONGEST_PATH - staging.length - 1;
  const inventory = new Inventory(budget, room);
  const copy = new TreeCopy({ destination, inventory, budget, warnings, links: 'later' });

  const reserved = new Set(request.reserved?.map(fromText));
  const matches = new Map<string, readonly ByteString[]>();
  for (const pattern of patterns) {
    const walk = new PatternWalk(pattern, {
      copy,
      budget,
      warnings,
      reserved,
      staging: staging.fd,
    });
    using base = openBase(request.rootFd, pattern.base);
    if (base !== undefined) await walk.run(base.fd);
    matches.set(pattern.source, walk.matches);
  }
  copy.makeLinks();
  destination.finish();

  const missing = [...matches]
    .filter(([, paths]) => !paths.some((path) => inventory.get(path) !== undefined))
    .map(([source]) => source);
  for (const source of missing) {
    warnings.add('no-match', fromText(source), 'matches nothing that could be collected');
  }
  request.signal?.throwIfAborted();
  staging.publish();
  const artifacts = [...inventory.values()].map(describe);
  return {
    artifacts: artifacts.sort((a, b) => (a.path < b.path ? -1 : 1)),
    warnings: warnings.finish(),
    missing,
  };
}

export function missingArtifacts(collection: Collection): KilnError | undefined {
  if (collection.missing.length === 0) return undefined;
  const which = collection.missing.map((source) => JSON.stringify(source)).join(', ');
  return new KilnError('E_ARTIFACT_MISSING', `no artifact for ${which}`, {
    hint: collection.warnings.some(({ code }) => code !== 'no-match')
      ? 'the warnings say what was left out, and why'
      : 'patterns are relative to the working directory in the sandbox; quote them from the shell',
    details: { patterns: collection.missing, warnings: collection.warnings },
  });
}

/** The tree's own links on the way (/lib, /var/run) are followed as from inside: none leads out of it. */
function openBase(rootFd: number, path: string) {
  const how = {
    flags: O_PATH | constants.O_DIRECTORY,
    resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
  };
  const absent = ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG', 'EACCES'];
  return unlessErrno(absent, () => closing(openat2(rootFd, path, how)));
}

function cannotWriteError(directory: string, path: ByteString, cause: unknown): KilnError {
  const full = hasErrno(cause, 'ENOSPC', 'EDQUOT');
  const hint = full ? `make room on the file system of ${directory}` : 'check the result folder';
  const what = `artifact ${quoteName(path)} cannot be written in ${directory}`;
  return new KilnError('E_ARTIFACT_WRITE', what, { hint, cause });
}

interface WalkOptions {
  readonly copy: TreeCopy;
  readonly budget: Budget;
  readonly warnings: Warnings;
  readonly reserved: ReadonlySet<ByteString>;
  readonly staging: number;
}

interface Frame {
  readonly fd: number;
  readonly stats: BigIntStats;
  readonly source: ByteString;
  readonly path: ByteString;
  readonly parent: Frame | undefined;
  readonly depth: number;
  copy: number | undefined;
}

class PatternWalk {
  readonly #pattern: ArtifactPattern;
  readonly #options: WalkOptions;
  readonly matches: ByteString[] = [];

  constructor(pattern: ArtifactPattern, options: WalkOptions) {
    this.#pattern = pattern;
    this.#options = options;
  }

  async run(fd: number): Promise<void> {
    const { base, title = base } = this.#pattern;
    const source = fromText(title.replace(/\/+$/, ''));
    const stats = fstatSync(fd, { bigint: true });
    const { staging: copy } = this.#options;
    const frame = { fd, stats, source, path: '', parent: undefined, depth: 1, copy };
    await this.#visit(frame, this.#pattern.start);
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
      if (!matched && below.length === 0) continue;
      if (this.#isReserved(frame, entry.name, matched)) continue;
      if (matched) matches.push(entry);
      else inner.push({ name: entry.name, state: below });
    }
    await this.#take(frame, matches);
    for (const { name, state: below } of inner) await this.#descend(frame, name, below);
  }

  #isReserved({ fd, source, parent }: Frame, name: ByteString, isWhole: boolean): boolean {
    if (parent !== undefined || !this.#options.reserved.has(name)) return false;
    using entry = openEntry(fd, name);
    if (entry === undefined || !(isWhole || fstatSync(entry.fd).isDirectory())) return false;
    const what = 'has the name of a file of kiln’s own in the result folder: skipped';
    this.#options.warnings.add('reserved-name', `${source}/${name}`, what);
    return true;
  }

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
      this.matches.push(joinBytes(frame.path, entry.name));
    }
    if (wanted.length === 0) return;
    const { fd: from, source, path, depth } = frame;
    const to = this.#copyOf(frame);
    await copy.copyEntries({ from, to, source, path, depth }, wanted);
  }

  #isWanted(frame: Frame, { name, isFile }: DirectoryEntry): boolean {
    if (isFile) return !this.#pattern.directoriesOnly;
    using entry = openEntry(frame.fd, name);
    if (entry === undefined) return false;
    return !this.#pattern.directoriesOnly || fstatSync(entry.fd).isDirectory();
  }

  async #descend(frame: Frame, name: ByteString, state: PatternState): Promise<void> {
    using entry = openEntry(frame.fd, name);
    if (entry === undefined) return;
    const inner: Frame = {
      fd: entry.fd,
      stats: fstatSync(entry.fd, { bigint: true }),
      source: `${frame.source}/${name}`,
      path: joinBytes(frame.path, name),
      parent: frame,
      depth: frame.depth + 1,
      copy: undefined,
    };
    try {
      if (inner.stats.isDirectory()) await this.#visit(inner, state);
    } finally {
      if (inner.copy !== undefined) closeSync(inner.copy);
    }
  }

  #copyOf(frame: Frame): number {
    if (frame.copy === undefined && frame.parent !== undefined) {
      const { path, source, stats } = frame;
      const made = { to: this.#copyOf(frame.parent), path, source };
      frame.copy = this.#options.copy.makeDirectory(made, stats);
    }
    return frame.copy ?? this.#options.staging;
  }
}

function openEntry(dirfd: number, name: ByteString) {
  const absent = ['ENOENT', 'ENOTDIR', 'ENAMETOOLONG', 'EACCES'];
  return unlessErrno(absent, () => closing(openPath(dirfd, toBytes(name))));
}
