/**
 * Writes chosen changes of a layer into the folder below it, with the rights of its owner, entry by entry, below open
 * folders: no link is followed, on neither side, and no other file system entered. A file is there whole or not at all.
 *
 * What has changed in the folder since the sandbox began is a conflict. The kernel tells by the time of an inode's last
 * change (ctime), which nobody can set: of the file, or of all that lies in a folder that goes away.
 */
import { type BigIntStats, constants, fchmodSync, fchownSync, fstatSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import { copyContent, ReadFailed } from '../../artifacts/content.ts';
import type { Owner, WithRights } from '../../artifacts/destination.ts';
import { type ByteString, joinBytes, toBytes } from '../../artifacts/pattern.ts';
import { listEntries, reopenFile } from '../../artifacts/source.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno, SyscallError, unlessErrno } from '../../host/calls/libc.ts';
import {
  lchownat,
  mkdirat,
  nameFile,
  O_PATH,
  openat2,
  openNameless,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
  renameat,
  setTimes,
  statAt,
  symlinkat,
  unlinkat,
} from '../../host/files/at.ts';
import { whyNotInside } from './link.ts';
import type { Ours } from './ours.ts';
import type { Change } from './walk.ts';

/** Below the folder, through no link and on no other mount. */
const RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
const FOLDER = { flags: constants.O_RDONLY | constants.O_DIRECTORY, resolve: RESOLVE };
const ENTRY = { flags: O_PATH | constants.O_NOFOLLOW, resolve: RESOLVE };

/** Set-id bits and the sticky one mean nothing good elsewhere. */
const RWX = 0o777;

/** In place of which a file comes that was there. Left behind only by a kill between two calls. */
const BESIDE = '.kiln-apply';

interface Left {
  readonly path: ByteString;
  readonly why: string;
  readonly isConflict: boolean;
}

export interface ApplyRequest {
  readonly upper: number;
  readonly lower: number;
  readonly since: bigint;
  readonly rights: WithRights;
  /** Of what is new, where `rights` are root's. */
  readonly owner: Owner | undefined;
  readonly changes: readonly Change[];
  /** Whether the caller has named a change that its own tools may run. */
  readonly isNamed: (path: ByteString) => boolean;
  readonly force: boolean;
  readonly ours: Ours;
  readonly signal?: AbortSignal | undefined;
}

export interface Applied {
  readonly done: readonly Change[];
  readonly left: readonly Left[];
}

class LeftAlone extends Error {
  readonly isConflict: boolean;

  constructor(why: string, isConflict = false) {
    super(why);
    this.isConflict = isConflict;
  }
}

/** @throws the signal's reason, KilnError E_ARTIFACT_LIMIT */
export async function applyChanges(request: ApplyRequest): Promise<Applied> {
  const applying = new Applying(request);
  await applying.run();
  return applying;
}

/** Where something lies in the folder. */
interface Place {
  readonly folder: number;
  readonly above: ByteString;
  readonly name: Buffer;
  readonly there: BigIntStats | undefined;
}

class Applying implements Applied {
  readonly done: Change[] = [];
  readonly left: Left[] = [];
  readonly #request: ApplyRequest;
  readonly #budget: Budget;
  readonly #folders: Change[] = [];

  constructor(request: ApplyRequest) {
    this.#request = request;
    this.#budget = new Budget({}, request.signal);
  }

  async run(): Promise<void> {
    const { changes } = this.#request;
    // A link comes after what it may lead to.
    const isLink = ({ kind, change }: Change) => kind === 'link' && change !== 'removed';
    for (const change of changes.filter((each) => !isLink(each))) await this.#try(change);
    for (const change of changes.filter(isLink)) await this.#try(change);
    // Backwards: one that is closed to its owner has to be filled first.
    for (const { path, mode } of this.#folders.reverse()) {
      await this.#attempt(path, async () => {
        using folder = closing(this.#openFolder(path));
        const isClean = !this.#isChanged(path, fstatSync(folder.fd, { bigint: true }));
        this.#asOwner(() => fchmodSync(folder.fd, mode & RWX));
        if (isClean) this.#request.ours.add(path, fstatSync(folder.fd, { bigint: true }));
      });
    }
  }

  async #try(change: Change): Promise<void> {
    if (this.#budget.due) await this.#budget.breathe();
    const { path, isAbove, isProtected } = change;
    await this.#attempt(path, async () => {
      if (isProtected && !isAbove && !this.#request.isNamed(path)) {
        throw new LeftAlone('your own tools may run it: name it to take it');
      }
      await this.#apply(change);
      if (!isAbove) this.done.push(change);
    });
  }

  async #attempt(path: ByteString, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      const { isConflict } = error instanceof LeftAlone ? error : { isConflict: false };
      const why = whyLeft(error);
      if (why === undefined) throw error;
      this.left.push({ path, why, isConflict });
    }
  }

  async #apply(change: Change): Promise<void> {
    const { path, kind } = change;
    const at = path.lastIndexOf('/');
    const above = path.slice(0, Math.max(0, at));
    using parent = closing(this.#openFolder(above));
    const name = toBytes(path.slice(at + 1));
    const there = this.#asOwner(() => statAt(parent.fd, name));
    const place = { folder: parent.fd, above, name, there };
    const isClean = !this.#isChanged(above, fstatSync(parent.fd, { bigint: true }));
    if (change.change !== 'removed' && kind === 'folder' && there?.isDirectory() === true) {
      this.#folders.push(change);
      return;
    }
    this.#refuseConflict(change, place, isClean);
    if (change.change === 'removed') {
      if (there !== undefined) await this.#remove(place, path);
    } else if (kind === 'folder') await this.#makeFolder(change, place);
    else if (kind === 'file') await this.#writeFile(change, place);
    else if (kind === 'link') await this.#makeLink(change, place);
    else throw new LeftAlone(`it is a ${kind}`);
    const { ours } = this.#request;
    // What somebody else has done in the folder stays known.
    if (isClean) ours.add(above, fstatSync(parent.fd, { bigint: true }));
    const now = this.#asOwner(() => statAt(parent.fd, name));
    if (now !== undefined) ours.add(path, now);
  }

  #openFolder(path: ByteString): number {
    const { lower } = this.#request;
    try {
      return this.#asOwner(() => openat2(lower, path === '' ? '.' : toBytes(path), FOLDER));
    } catch (error) {
      if (hasErrno(error, 'ELOOP')) throw new LeftAlone('a link lies above it in the folder', true);
      if (hasErrno(error, 'EXDEV')) throw new LeftAlone('another file system is mounted there');
      if (!hasErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
      throw new LeftAlone('the folder above it is gone', true);
    }
  }

  #refuseConflict({ path, change, isCopy }: Change, { there }: Place, isClean: boolean): void {
    if (this.#request.force) return;
    if (there === undefined) {
      if (change !== 'added' && change !== 'removed') throw new LeftAlone('it is gone', true);
      if (change === 'added' && isCopy && !isClean) {
        throw new LeftAlone('it may have been removed since the sandbox began', true);
      }
      return;
    }
    if (change === 'added') throw new LeftAlone('something else is there now', true);
    this.#refuseChanged(path, there);
  }

  #isChanged(path: ByteString, stats: BigIntStats): boolean {
    return stats.ctimeNs >= this.#request.since && !this.#request.ours.has(path, stats);
  }

  #refuseChanged(path: ByteString, stats: BigIntStats, what = 'it'): void {
    if (this.#request.force || !this.#isChanged(path, stats)) return;
    throw new LeftAlone(`${what} has changed since the sandbox began`, true);
  }

  /** A folder with all that is in it, once nothing of that is a conflict. */
  async #remove({ folder, name, there }: Place, path: ByteString): Promise<void> {
    if (there?.isDirectory() === true) {
      const seen = new Map<ByteString, string>();
      await this.#look(folder, name, path, seen);
      await this.#empty(folder, name, path, seen);
      this.#asOwner(() => unlinkat(folder, name, { directory: true }));
    } else this.#asOwner(() => unlinkat(folder, name));
  }

  async #look(
    above: number,
    name: Buffer,
    path: ByteString,
    seen: Map<ByteString, string>,
    depth = 1,
  ): Promise<void> {
    this.#budget.checkDepth(depth);
    using folder = closing(this.#asOwner(() => openat2(above, name, FOLDER)));
    for (const { name: entry } of this.#asOwner(() => listEntries(folder.fd, this.#budget))) {
      if (this.#budget.due) await this.#budget.breathe();
      const inner = joinBytes(path, entry);
      const stats = this.#asOwner(() => statAt(folder.fd, toBytes(entry)));
      if (stats === undefined) continue;
      this.#refuseChanged(inner, stats, 'what is in it');
      this.#budget.spend('paths', inner.length);
      seen.set(inner, contentOf(stats));
      if (stats.isDirectory()) {
        await this.#look(folder.fd, toBytes(entry), inner, seen, depth + 1);
      }
    }
  }

  /** Nothing that came meanwhile. Of hard links, the last change is now this one's. */
  async #empty(
    above: number,
    name: Buffer,
    path: ByteString,
    seen: ReadonlyMap<ByteString, string>,
  ): Promise<void> {
    using folder = closing(this.#asOwner(() => openat2(above, name, FOLDER)));
    for (const { name: entry } of this.#asOwner(() => listEntries(folder.fd, this.#budget))) {
      if (this.#budget.due) await this.#budget.breathe();
      const inner = joinBytes(path, entry);
      const bytes = toBytes(entry);
      const stats = this.#asOwner(() => statAt(folder.fd, bytes));
      if (stats === undefined) continue;
      const directory = stats.isDirectory();
      if (directory ? !seen.has(inner) : seen.get(inner) !== contentOf(stats)) {
        throw new LeftAlone('what is in it has changed just now', true);
      }
      if (directory) await this.#empty(folder.fd, bytes, inner, seen);
      this.#asOwner(() => unlinkat(folder.fd, bytes, { directory }));
    }
  }

  async #makeFolder(change: Change, place: Place): Promise<void> {
    const { folder, name, there } = place;
    if (there !== undefined) await this.#remove(place, change.path);
    this.#asOwner(() => {
      mkdirat(folder, name, 0o700);
      this.#own(place);
    });
    this.#folders.push(change);
  }

  async #writeFile({ path }: Change, place: Place): Promise<void> {
    const { folder, name, there } = place;
    using entry = closing(openat2(this.#request.upper, toBytes(path), ENTRY));
    const stats = fstatSync(entry.fd, { bigint: true });
    if (!stats.isFile()) throw changing();
    using from = closing(reopenFile(entry.fd));
    using to = closing(this.#asOwner(() => openNameless(folder)));
    const { rights, owner } = this.#request;
    const writing = owner === undefined ? rights : undefined;
    const [size, blocks] = [Number(stats.size), Number(stats.blocks)];
    try {
      await copyContent(from.fd, to.fd, size, blocks, this.#budget, writing);
    } catch (error) {
      throw error instanceof ReadFailed ? changing() : error;
    }
    const after = fstatSync(from.fd, { bigint: true });
    if (after.size !== stats.size || after.mtimeNs !== stats.mtimeNs) throw changing();
    this.#asOwner(() => {
      if (owner !== undefined) fchownSync(to.fd, ...idsOf(there, owner));
      fchmodSync(to.fd, Number(stats.mode) & RWX);
      setTimes(to.fd, stats);
    });
    await this.#putInPlace(path, place, (as) => nameFile(to.fd, folder, as), name);
  }

  async #makeLink({ path, target = '' }: Change, place: Place): Promise<void> {
    const { lower } = this.#request;
    const why = whyNotInside(path, target, (way) =>
      this.#asOwner(() => {
        const resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
        using _found = closing(openat2(lower, toBytes(way), { flags: O_PATH, resolve }));
      }),
    );
    if (why !== undefined) throw new LeftAlone(`it is a link ${why}`);
    const { folder, name } = place;
    await this.#putInPlace(
      path,
      place,
      (as) => {
        symlinkat(toBytes(target), folder, as);
        if (this.#request.owner !== undefined) {
          lchownat(folder, as, ...idsOf(place.there, this.#request.owner));
        }
      },
      name,
    );
  }

  /** At once, where something is there that is no folder; never in place of what came meanwhile. */
  async #putInPlace(
    path: ByteString,
    place: Place,
    make: (name: Buffer) => void,
    name: Buffer,
  ): Promise<void> {
    const { folder, there } = place;
    if (there?.isDirectory() === true) await this.#remove(place, path);
    if (there === undefined || there.isDirectory()) {
      try {
        this.#asOwner(() => make(name));
      } catch (error) {
        throw hasErrno(error, 'EEXIST')
          ? new LeftAlone('something else is there now', true)
          : error;
      }
      return;
    }
    const beside = toBytes(BESIDE);
    this.#asOwner(() => {
      unlessErrno(['ENOENT'], () => unlinkat(folder, beside));
      make(beside);
      try {
        const now = statAt(folder, name);
        if (now?.ino !== there.ino || now.ctimeNs !== there.ctimeNs) {
          throw new LeftAlone('it has changed just now', true);
        }
        renameat(folder, beside, folder, name);
      } catch (error) {
        unlinkat(folder, beside);
        throw error;
      }
    });
  }

  #own({ folder, name, there }: Place): void {
    const { owner } = this.#request;
    if (owner !== undefined) lchownat(folder, name, ...idsOf(there, owner));
  }

  #asOwner<Result>(act: () => Result): Result {
    return this.#request.rights(act);
  }
}

function idsOf(there: BigIntStats | undefined, { uid, gid }: Owner): [number, number] {
  return there === undefined ? [uid, gid] : [Number(there.uid), Number(there.gid)];
}

function changing(): LeftAlone {
  return new LeftAlone('it changes while it is read: a process in the sandbox writes to it');
}

/** What a change of a file changes, and a further link to it does not. */
function contentOf({ ino, mtimeNs, size, mode }: BigIntStats): string {
  return `${ino} ${mtimeNs} ${size} ${mode}`;
}

/** Undefined for what is no fault of one entry. */
function whyLeft(error: unknown): string | undefined {
  if (error instanceof LeftAlone) return error.message;
  if (error instanceof SyscallError) return `it cannot be written (${error.errnoName})`;
  const { syscall, code } = error as NodeJS.ErrnoException;
  return syscall === undefined ? undefined : `it cannot be written (${code})`;
}
