import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { type ByteString, quoteName, reportName } from './pattern.ts';
import type { Budget } from './warning.ts';

/** One artifact, as result.json has it. */
export interface Artifact {
  /** Below the result directory. Bytes that are not UTF-8 are U+FFFD here and exact in `pathBytes`. */
  readonly path: string;
  /** The exact bytes of `path` in base64, only where it is not UTF-8. */
  readonly pathBytes?: string;
  /** Where it was in the sandbox, absolute. */
  readonly source: string;
  readonly type: 'file' | 'directory' | 'symlink';
  /** Bytes of content, holes included; of a link: of its target; 0 for a directory. */
  readonly size: number;
  /** Of a file's content, 64 hex digits. */
  readonly sha256?: string;
  /** Of a symbolic link. */
  readonly target?: string;
  /** The exact bytes of `target` in base64, only where it is not UTF-8. */
  readonly targetBytes?: string;
  /** Permission bits, octal with a leading 0. */
  readonly mode: string;
  /** Last modification, ISO 8601 in UTC (the file itself keeps nanoseconds). */
  readonly mtime: string;
  /** The `path` of the artifact that this is a hard link to. */
  readonly hardLinkTo?: string;
  /** It changed while being read: size and digest are those of the copy. */
  readonly changed?: true;
}

/** Dates outside of what a JavaScript Date holds (and no clock says) are put at its ends. */
const LAST_DATE_MS = 8.64e15;

/** An entry for machines and people to read. */
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
    mtime: isoTime(entry.mtimeMs),
    ...(entry.hardLinkTo === undefined ? {} : { hardLinkTo: reportName(entry.hardLinkTo).text }),
    ...(entry.changed === true ? { changed: true } : {}),
  };
}

/** Times in one second share all but its thousandths; a Date's text takes as long as copying some bytes. */
let second = { start: Number.NaN, text: '' };

function isoTime(milliseconds: number): string {
  const time = Math.max(-LAST_DATE_MS, Math.min(LAST_DATE_MS, milliseconds));
  const start = Math.floor(time / 1000) * 1000;
  if (second.start !== start) {
    second = { start, text: new Date(start).toISOString().slice(0, -'000Z'.length) };
  }
  return `${second.text}${String(time - start).padStart(3, '0')}Z`;
}

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
    `the path of a file below ${start} would be longer than ${limit} bytes`,
    {
      hint: 'pack the deep folder into an archive in the sandbox: `tar -cf`',
      details: { limit: 'path', value: limit },
    },
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
