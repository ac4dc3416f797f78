import type { BigIntStats } from 'node:fs';
import type { Budget } from '../../artifacts/budget.ts';
import { type ByteString, joinBytes, toBytes } from '../../artifacts/byte-string.ts';
import type { WithRights } from '../../artifacts/destination.ts';
import { listEntries } from '../../artifacts/source.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { DIRECTORY_WITHIN, openat2, statAt, unlinkat } from '../../host/files/at.ts';
import { type Conflicts, LeftAlone } from './conflicts.ts';
import type { Place } from './place.ts';

/** Removes what goes away in the folder, with the rights of its owner. */
export class Removing {
  readonly #budget: Budget;
  readonly #conflicts: Conflicts;
  readonly #asOwner: WithRights;

  constructor(budget: Budget, conflicts: Conflicts, rights: WithRights) {
    this.#budget = budget;
    this.#conflicts = conflicts;
    this.#asOwner = rights;
  }

  /** A folder with all that is in it, once nothing of that is a conflict. */
  async remove({ folder, name, there }: Place, path: ByteString): Promise<void> {
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
    using folder = closing(this.#asOwner(() => openat2(above, name, DIRECTORY_WITHIN)));
    for (const { name: entry } of this.#asOwner(() => listEntries(folder.fd, this.#budget))) {
      if (this.#budget.due) await this.#budget.breathe();
      const inner = joinBytes(path, entry);
      const stats = this.#asOwner(() => statAt(folder.fd, toBytes(entry)));
      if (stats === undefined) continue;
      this.#conflicts.refuseChanged(inner, stats, 'what is in it');
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
    using folder = closing(this.#asOwner(() => openat2(above, name, DIRECTORY_WITHIN)));
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
}

/** What a change of a file changes, and a further link to it does not. */
function contentOf({ ino, mtimeNs, size, mode }: BigIntStats): string {
  return `${ino} ${mtimeNs} ${size} ${mode}`;
}
