import { type BigIntStats, constants, fchmodSync, fchownSync, fstatSync } from 'node:fs';
import type { Budget } from '../../artifacts/budget.ts';
import { type ByteString, toBytes } from '../../artifacts/byte-string.ts';
import { copyContent, ReadFailed } from '../../artifacts/content.ts';
import type { Owner, WithRights } from '../../artifacts/destination.ts';
import { reopenFile } from '../../artifacts/source.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno, unlessErrno } from '../../host/calls/libc.ts';
import {
  lchownat,
  mkdirat,
  nameFile,
  O_PATH,
  openat2,
  openNameless,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_WITHIN,
  renameat,
  setTimes,
  statAt,
  symlinkat,
  unlinkat,
} from '../../host/files/at.ts';
import { LeftAlone } from './conflicts.ts';
import type { Change } from './entry.ts';
import { whyNotInside } from './link.ts';
import { type Place, RWX } from './place.ts';
import type { Removing } from './remove.ts';

const ENTRY = { flags: O_PATH | constants.O_NOFOLLOW, resolve: RESOLVE_WITHIN };

/** In place of which a file comes that was there. Left behind only by a kill between two calls. */
const BESIDE = '.kiln-apply';

interface WriteRequest {
  readonly upper: number;
  readonly lower: number;
  readonly rights: WithRights;
  /** Of what is new, where `rights` are root's. */
  readonly owner: Owner | undefined;
}

/** Makes what is new in the folder. A file is there whole or not at all. */
export class Writing {
  readonly #request: WriteRequest;
  readonly #asOwner: WithRights;
  readonly #budget: Budget;
  readonly #removing: Removing;

  constructor(request: WriteRequest, budget: Budget, removing: Removing) {
    this.#request = request;
    this.#asOwner = request.rights;
    this.#budget = budget;
    this.#removing = removing;
  }

  async makeFolder(change: Change, place: Place): Promise<void> {
    const { folder, name, there } = place;
    if (there !== undefined) await this.#removing.remove(place, change.path);
    this.#asOwner(() => {
      mkdirat(folder, name, 0o700);
      this.#own(place);
    });
  }

  async makeFile({ path }: Change, place: Place): Promise<void> {
    const { folder, there } = place;
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
    await this.#putInPlace(path, place, (as) => nameFile(to.fd, folder, as));
  }

  async makeLink({ path, target = '' }: Change, place: Place): Promise<void> {
    const { lower } = this.#request;
    const why = whyNotInside(path, target, (way) =>
      this.#asOwner(() => {
        const resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
        using _found = closing(openat2(lower, toBytes(way), { flags: O_PATH, resolve }));
      }),
    );
    if (why !== undefined) throw new LeftAlone(`it is a link ${why}`);
    await this.#putInPlace(path, place, (as) => {
      symlinkat(toBytes(target), place.folder, as);
      this.#own({ ...place, name: as });
    });
  }

  /** At once, where something is there that is no folder; never in place of what came meanwhile. */
  async #putInPlace(path: ByteString, place: Place, make: (name: Buffer) => void): Promise<void> {
    const { folder, name, there } = place;
    if (there?.isDirectory() === true) await this.#removing.remove(place, path);
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
}

function idsOf(there: BigIntStats | undefined, { uid, gid }: Owner): [number, number] {
  return there === undefined ? [uid, gid] : [Number(there.uid), Number(there.gid)];
}

function changing(): LeftAlone {
  return new LeftAlone('it changes while it is read: a process in the sandbox writes to it');
}
