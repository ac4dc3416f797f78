import type { CopiedEntry } from './inventory.ts';
import { reportName } from './names.ts';

/** One artifact, as result.json has it. */
export interface Artifact {
  /** Below the result directory. Bytes that are not UTF-8 are U+FFFD here and exact in `pathBytes`. */
  readonly path: string;
  /** The exact bytes of `path` in base64, only where it is not UTF-8. */
  readonly pathBytes?: string;
  /** Where it was in the box, absolute. */
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
    ...(path.bytes === undefined ? {} : { pathBytes: path.bytes }),
    source: reportName(entry.source).text,
    type: entry.type,
    size: entry.size,
    ...(entry.sha256 === undefined ? {} : { sha256: entry.sha256 }),
    ...(target === undefined ? {} : { target: target.text }),
    ...(target?.bytes === undefined ? {} : { targetBytes: target.bytes }),
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
