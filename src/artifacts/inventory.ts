import { KilnError } from '../errors.ts';
import type { Budget } from './budget.ts';
import { type ByteString, quoteName } from './names.ts';

/** One entry of a copy. */
export interface CopiedEntry {
  /** Below the destination's root. */
  readonly path: ByteString;
  /** Where it was copied from, absolute in its own tree. */
  readonly source: ByteString;
  readonly type: 'file' | 'directory' | 'symlink';
  /** Bytes of content (a link: of its target; a directory: 0). */
  readonly size: number;
  /** Permission bits of the copy. */
  readonly mode: number;
  /** Of last modification, whole milliseconds since 1970. */
  readonly mtimeMs: number;
  /** Of a file's content, hex. */
  readonly sha256?: string;
  /** Of a symbolic link. */
  readonly target?: ByteString;
  /** The `path` of the entry that this one is a hard link to. */
  readonly hardLinkTo?: ByteString;
  /** The source changed while it was read. */
  readonly changed?: boolean;
}

/** What has been copied where: one entry a destination path, none twice. */
export class Inventory {
  readonly #entries = new Map<ByteString, CopiedEntry>();
  readonly #budget: Budget;
  readonly #maxPath: number;

  /** @param maxPath the longest destination path, in bytes */
  constructor(budget: Budget, maxPath: number) {
    this.#budget = budget;
    this.#maxPath = maxPath;
  }

  /**
   * Whether `path` is still to be made. False for a file copied already and for a directory that
   * was made already; anything else at the same path is a collision. Only {@link add} makes it so.
   * @throws KilnError E_ARTIFACT_COLLISION, E_ARTIFACT_LIMIT for a path too long
   */
  claim(entry: Pick<CopiedEntry, 'path' | 'source' | 'type'>): boolean {
    const there = this.#entries.get(entry.path);
    if (there === undefined) {
      if (entry.path.length > this.#maxPath) throw pathTooLong(entry.source, this.#maxPath);
      return true;
    }
    const both = there.type === 'directory' && entry.type === 'directory';
    if (both || there.source === entry.source) return false;
    throw collision(there, entry);
  }

  /** @throws KilnError E_ARTIFACT_LIMIT for too many */
  add(entry: CopiedEntry): void {
    this.#budget.spend('entries', 1);
    this.#entries.set(entry.path, entry);
  }

  remove(path: ByteString): void {
    this.#entries.delete(path);
  }

  get(path: ByteString): CopiedEntry | undefined {
    return this.#entries.get(path);
  }

  /** Every entry, in the order of copying: a directory before what is in it. */
  values(): IterableIterator<CopiedEntry> {
    return this.#entries.values();
  }
}

function pathTooLong(source: ByteString, limit: number): KilnError {
  const start = quoteName(source.slice(0, 200));
  return new KilnError(
    'E_ARTIFACT_LIMIT',
    `a path of more than ${limit} bytes would have to be made for what is below ${start}`,
    { details: { limit: 'path', value: limit } },
  );
}

function collision(
  there: Pick<CopiedEntry, 'path' | 'source'>,
  entry: Pick<CopiedEntry, 'source'>,
): KilnError {
  const [first, second] = [quoteName(there.source), quoteName(entry.source)];
  return new KilnError(
    'E_ARTIFACT_COLLISION',
    `${first} and ${second} would both become ${quoteName(there.path)}`,
    { hint: 'a match keeps its path from the first wildcard on: start the wildcard higher up' },
  );
}
