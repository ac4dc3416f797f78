import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import type { Budget } from './budget.ts';
import { type ByteString, quoteName, reportName } from './byte-string.ts';

/** PATH_MAX of linux/limits.h, without its NUL. */
export const LONGEST_PATH = 4095;

export interface Artifact {
  /** Below the result directory. Bytes that are not UTF-8 are U+FFFD here and exact in `pathBytes`. */
  readonly path: string;
  readonly pathBytes?: string;
  readonly source: string;
  readonly type: 'file' | 'directory' | 'symlink';
  /** Bytes of content, holes included; of a link: of its target; 0 for a directory. */
  readonly size: number;
  readonly sha256?: string;
  readonly target?: string;
  readonly targetBytes?: string;
  /** Permission bits, octal with a leading 0. */
  readonly mode: string;
  readonly mtime: string;
  readonly hardLinkTo?: string;
  /** It changed while being read: size and digest are those of the copy. */
  readonly changed?: true;
}

/** Dates outside of what a JavaScript Date holds (and no clock says) are put at its ends. */
const LAST_DATE_MS = 8.64e15;

export function describe(entry: CopiedEntry): Artifact {
  const path = reportName(entry.path);
  const target = entry.target === undefined ? undefined : reportName(entry.target);
  return {
    path: path.text,
    ...defined({ pathBytes: path.bytes }),
    source: reportName(entry.source).text,
    type: entry.type,
    size: entry.size,
    ...defined({ sha256: entry.sha256, target: target?.text, targetBytes: target?.bytes }),
    mode: `0${entry.mode.toString(8).padStart(3, '0')}`,
    mtime: new Date(Math.max(-LAST_DATE_MS, Math.min(LAST_DATE_MS, entry.mtimeMs))).toISOString(),
    ...(entry.hardLinkTo === undefined ? {} : { hardLinkTo: reportName(entry.hardLinkTo).text }),
    ...(entry.changed === true ? { changed: true } : {}),
  };
}

interface EntryName {
  readonly path: ByteString;
  readonly source: ByteString;
  readonly type: 'file' | 'directory' | 'symlink';
}

export interface CopiedEntry extends EntryName {
  readonly size: number;
  readonly mode: number;
  readonly mtimeMs: number;
  readonly sha256?: string;
  readonly target?: ByteString;
  readonly hardLinkTo?: ByteString;
  readonly changed?: boolean;
}

export class Inventory {
  readonly #entries = new Map<ByteString, CopiedEntry>();
  readonly #budget: Budget;
  readonly #maxPath: number;

  constructor(budget: Budget, maxPath: number) {
    this.#budget = budget;
    this.#maxPath = maxPath;
  }

  isNew(entry: EntryName): boolean {
    const there = this.#entries.get(entry.path);
    if (there === undefined) {
      if (entry.path.length > this.#maxPath) throw pathTooLongError(entry.source, this.#maxPath);
      return true;
    }
    const both = there.type === 'directory' && entry.type === 'directory';
    if (both || there.source === entry.source) return false;
    const [first, second] = [quoteName(there.source), quoteName(entry.source)];
    throw new KilnError(
      'E_ARTIFACT_COLLISION',
      `${first} and ${second} would both become ${quoteName(there.path)}`,
      { hint: 'a match keeps its path from the first wildcard on: start the wildcard higher up' },
    );
  }

  add(entry: CopiedEntry): void {
    this.#budget.spend('entries', 1);
    this.#budget.spend('paths', entry.path.length);
    this.#entries.set(entry.path, entry);
  }

  remove(path: ByteString): void {
    this.#entries.delete(path);
  }

  get(path: ByteString): CopiedEntry | undefined {
    return this.#entries.get(path);
  }

  values(): IterableIterator<CopiedEntry> {
    return this.#entries.values();
  }
}

function pathTooLongError(source: ByteString, limit: number): KilnError {
  const start = quoteName(source.slice(0, 200));
  return new KilnError(
    'E_ARTIFACT_LIMIT',
    `the path of a file below ${start} would be longer than ${limit} bytes`,
    {
      hint: 'pack the deep folder into an archive in the sandbox: `tar -cf`',
      details: { limit: 'path', value: limit },
    },
  );
}
