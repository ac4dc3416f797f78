/**
 * Writes chosen changes of a layer into the folder below it, with the rights of its owner, entry by entry, below open
 * folders: no link is followed, on neither side, and no other file system entered.
 */
import { fchmodSync, fstatSync } from 'node:fs';
import { Budget } from '../../artifacts/budget.ts';
import { type ByteString, toBytes } from '../../artifacts/byte-string.ts';
import type { Owner, WithRights } from '../../artifacts/destination.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { DIRECTORY_WITHIN, openat2, statAt } from '../../host/files/at.ts';
import { beginStage } from '../../host/process/work.ts';
import { Conflicts, LeftAlone, whyLeft } from './conflicts.ts';
import type { Change } from './entry.ts';
import type { Ours } from './ours.ts';
import { RWX } from './place.ts';
import { Removing } from './remove.ts';
import { Writing } from './write.ts';

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

/** @throws the signal's reason, KilnError E_ARTIFACT_LIMIT */
export async function applyChanges(request: ApplyRequest): Promise<Applied> {
  const applying = new Applying(request);
  await applying.run();
  return applying;
}

class Applying implements Applied {
  readonly done: Change[] = [];
  readonly left: Left[] = [];
  readonly #request: ApplyRequest;
  readonly #asOwner: WithRights;
  readonly #budget: Budget;
  readonly #conflicts: Conflicts;
  readonly #removing: Removing;
  readonly #writing: Writing;
  readonly #folders: Change[] = [];

  constructor(request: ApplyRequest) {
    this.#request = request;
    this.#asOwner = request.rights;
    this.#budget = new Budget({}, request.signal);
    this.#conflicts = new Conflicts(request);
    this.#removing = new Removing(this.#budget, this.#conflicts, request.rights);
    this.#writing = new Writing(request, this.#budget, this.#removing);
  }

  async run(): Promise<void> {
    const { changes } = this.#request;
    beginStage('making changes', changes.length);
    // A link comes after what it may lead to.
    const isLink = ({ kind, change }: Change) => kind === 'link' && change !== 'removed';
    for (const change of changes.filter((each) => !isLink(each))) await this.#try(change);
    for (const change of changes.filter(isLink)) await this.#try(change);
    // Backwards: one that is closed to its owner has to be filled first.
    for (const { path, mode } of this.#folders.reverse()) {
      await this.#attempt(path, async () => {
        using folder = closing(this.#openFolder(path));
        const isClean = !this.#conflicts.isChanged(path, fstatSync(folder.fd, { bigint: true }));
        this.#asOwner(() => fchmodSync(folder.fd, mode & RWX));
        if (isClean) this.#request.ours.add(path, fstatSync(folder.fd, { bigint: true }));
      });
    }
  }

  async #try(change: Change): Promise<void> {
    if (this.#budget.due) await this.#budget.breathe(this.done.length);
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
    const isClean = !this.#conflicts.isChanged(above, fstatSync(parent.fd, { bigint: true }));
    if (change.change !== 'removed' && kind === 'folder' && there?.isDirectory() === true) {
      this.#folders.push(change);
      return;
    }
    this.#conflicts.refuse(change, there, isClean);
    if (change.change === 'removed') {
      if (there !== undefined) await this.#removing.remove(place, path);
    } else if (kind === 'folder') {
      await this.#writing.makeFolder(change, place);
      this.#folders.push(change);
    } else if (kind === 'file') await this.#writing.makeFile(change, place);
    else if (kind === 'link') await this.#writing.makeLink(change, place);
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
      return this.#asOwner(() =>
        openat2(lower, path === '' ? '.' : toBytes(path), DIRECTORY_WITHIN),
      );
    } catch (error) {
      if (hasErrno(error, 'ELOOP')) throw new LeftAlone('a link lies above it in the folder', true);
      if (hasErrno(error, 'EXDEV')) throw new LeftAlone('another file system is mounted there');
      if (!hasErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
      throw new LeftAlone('the folder above it is gone', true);
    }
  }
}
