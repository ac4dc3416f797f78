import { type BigIntStats, closeSync, constants, fstatSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import {
  O_PATH,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from '../host/files/at.ts';
import { Destination, type Owner } from './destination.ts';
import { type Artifact, type CopiedEntry, describe, Inventory } from './manifest.ts';
import { type ByteString, compilePattern, fromText, joinBytes, quoteName } from './pattern.ts';
import { openStaging } from './staging.ts';
import { TreeCopy } from './tree-copy.ts';
import { PatternWalk } from './walk.ts';
import { type ArtifactWarning, Budget, type CopyLimits, Warnings } from './warning.ts';

/** PATH_MAX of linux/limits.h, without its NUL. */
const LONGEST_PATH = 4095;

/** What to collect, from where, to where. */
export interface CollectRequest {
  /**
   * The root of the tree, as a directory descriptor (O_PATH will do); stays open, is the caller's.
   * Nothing outside of it is ever reached, whatever links the tree has.
   */
  readonly rootFd: number;
  /** As `--artifact` takes them; see `compilePattern`. */
  readonly patterns: readonly string[];
  /** Where relative patterns start: an absolute path in the tree. */
  readonly workdir: string;
  /** The result directory, on the host; made if missing. */
  readonly destination: string;
  /** Whose the copies are, on the host. */
  readonly owner: Owner;
  readonly limits?: Partial<CopyLimits>;
  readonly signal?: AbortSignal;
  /** Told of each warning as it arises. */
  readonly onWarning?: (warning: ArtifactWarning) => void;
}

export interface Collection {
  /** Sorted by path; a directory comes before what is in it. */
  readonly artifacts: readonly Artifact[];
  readonly warnings: readonly ArtifactWarning[];
  /** The patterns that gave nothing: see {@link missingArtifacts}. */
  readonly missing: readonly string[];
}

/**
 * Refuses what is no pattern, before anything runs whose result it would lose.
 * @throws KilnError E_ARTIFACT_PATTERN
 */
export function checkPatterns(patterns: readonly string[]): void {
  for (const source of patterns) compilePattern(source, '/');
}

/**
 * Copies what the patterns match out of a tree that may be hostile and may still change.
 *
 * A match keeps its path from the pattern's first wildcard on, as `cp -a` would put it:
 * `out/*.rpm` gives `a.rpm`, `out` gives `out/…`, `build/**` keeps what is below `build`.
 * Directories are taken whole. Permission bits, times (ns), holes and hard links are kept, setuid
 * and setgid bits are not; extended attributes and ACLs are not. Symbolic links come out as links,
 * and only where they lead to something else that came out. The result directory changes only when
 * everything is there; a failure leaves it as it was.
 *
 * @throws KilnError E_ARTIFACT_PATTERN, E_ARTIFACT_LIMIT, E_ARTIFACT_COLLISION, E_ARTIFACT_WRITE,
 * E_RESULTDIR; the signal's reason when aborted
 */
export async function collectArtifacts(request: CollectRequest): Promise<Collection> {
  const patterns = request.patterns.map((source) => compilePattern(source, request.workdir));
  const warnings = new Warnings(request.onWarning);
  const budget = new Budget(request.limits, request.signal);
  await using staging = await openStaging(request.destination, request.owner);
  const destination = new Destination({
    root: staging.fd,
    resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    owner: request.owner,
    replace: false,
    failure: (path, cause) => cannotWrite(staging.destination, path, cause),
  });
  const room = LONGEST_PATH - Buffer.byteLength(staging.destination) - 1;
  const inventory = new Inventory(budget, room);
  const copy = new TreeCopy({ destination, inventory, budget, warnings, links: 'later' });

  const matches = new Map<string, readonly ByteString[]>();
  for (const pattern of patterns) {
    const walk = new PatternWalk({ copy, budget, warnings, staging: staging.fd });
    using base = openBase(request.rootFd, pattern.base);
    if (base !== undefined) await walk.run(pattern, base.fd, base.stats);
    matches.set(pattern.source, walk.matches);
  }
  copy.makeLinks((link) => {
    const inside = staysInside(link, inventory);
    if (!inside) {
      const target = quoteName(link.target ?? '');
      const what = `is a symbolic link to ${target}, which was not collected: skipped`;
      warnings.add('link-outside', link.source, what);
    }
    return inside;
  });
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
  return { artifacts: artifacts.sort(byPath), warnings: warnings.finish(), missing };
}

/**
 * The failure that missing artifacts are, or undefined if every pattern gave something. Whoever
 * asked for a file and did not get it has not got what the job was for: `kiln run` and `kiln build`
 * fail with this when the command itself succeeded. What did match has been collected all the same.
 */
export function missingArtifacts(collection: Collection): KilnError | undefined {
  if (collection.missing.length === 0) return undefined;
  const which = collection.missing.map((source) => JSON.stringify(source)).join(', ');
  return new KilnError('E_ARTIFACT_MISSING', `no artifact for ${which}`, {
    hint: 'patterns are relative to the working directory in the sandbox; quote them from the shell',
    details: { patterns: collection.missing, warnings: collection.warnings },
  });
}

interface Base extends Disposable {
  readonly fd: number;
  readonly stats: BigIntStats;
}

/**
 * Opens the directory a pattern starts in, or undefined where there is none. The tree's own links
 * on the way (/lib, /var/run) are followed as from inside, so they cannot lead out of the tree.
 */
function openBase(rootFd: number, path: string): Base | undefined {
  try {
    const fd = openat2(rootFd, path, {
      flags: O_PATH | constants.O_DIRECTORY,
      resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    });
    return { fd, stats: fstatSync(fd, { bigint: true }), [Symbol.dispose]: () => closeSync(fd) };
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG', 'EACCES')) return undefined;
    throw error;
  }
}

function cannotWrite(directory: string, path: ByteString, cause: unknown): KilnError {
  const full = hasErrno(cause, 'ENOSPC', 'EDQUOT');
  return new KilnError(
    'E_ARTIFACT_WRITE',
    `artifact ${quoteName(path)} cannot be written in ${directory}`,
    {
      hint: full ? `make room on the file system of ${directory}` : 'check the result directory',
      cause,
    },
  );
}

function byPath(a: Artifact, b: Artifact): number {
  return a.path < b.path ? -1 : Number(a.path > b.path);
}

/** As the kernel's own limit (MAXSYMLINKS in linux/namei.h). */
const MAX_HOPS = 40;

/**
 * Whether a collected symbolic link may come out: only if it leads, through collected entries
 * alone, to a collected entry.
 *
 * Its target must be relative and have `..` only at its start, and no more of them than there are
 * real directories above it. That makes it stay inside whatever else lies in the destination: the
 * directories it climbs are real ones, and every link it then passes obeys the same rule. (With
 * `..` after a name, `a/../../x` would climb from wherever a link `a` leads.)
 */
export function staysInside(link: CopiedEntry, inventory: Inventory): boolean {
  let current = link;
  for (let hop = 0; hop < MAX_HOPS; hop += 1) {
    const target = climb(current);
    if (target === undefined) return false;
    const next = follow(target, inventory);
    if (next === undefined) return false;
    if (next.entry.type !== 'symlink') return next.rest.length === 0;
    current = relink(next.entry, next.rest);
  }
  return false;
}

interface Reached {
  /** The entry at the end, or the first link on the way. */
  readonly entry: CopiedEntry;
  /** Components still to go from that link. */
  readonly rest: readonly ByteString[];
}

/** The destination path that a link's target is, or undefined if it is not of the allowed form. */
function climb(link: CopiedEntry): readonly ByteString[] | undefined {
  const target = link.target ?? '';
  if (target === '' || target.startsWith('/')) return undefined;
  const parts = target.split('/').filter((part) => part !== '' && part !== '.');
  const above = link.path.split('/').slice(0, -1);
  const firstName = parts.findIndex((part) => part !== '..');
  const ups = firstName === -1 ? parts.length : firstName;
  if (ups > above.length || parts.indexOf('..', ups) !== -1) return undefined;
  return [...above.slice(0, above.length - ups), ...parts.slice(ups)];
}

function follow(path: readonly ByteString[], inventory: Inventory): Reached | undefined {
  let entry: CopiedEntry | undefined;
  let at: ByteString = '';
  for (const [index, part] of path.entries()) {
    at = joinBytes(at, part);
    entry = inventory.get(at);
    if (entry === undefined) return undefined;
    if (entry.type === 'symlink') return { entry, rest: path.slice(index + 1) };
    if (entry.type === 'file' && index < path.length - 1) return undefined;
  }
  return entry === undefined ? undefined : { entry, rest: [] };
}

/** The link with the rest of the way appended to its target. */
function relink(link: CopiedEntry, rest: readonly ByteString[]): CopiedEntry {
  return rest.length === 0 ? link : { ...link, target: [link.target, ...rest].join('/') };
}
