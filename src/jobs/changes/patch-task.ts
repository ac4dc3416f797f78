/**
 * Reads files that a sandbox has changed and compares their texts with what was there before, as a confined child: the
 * layers are hostile and may change meanwhile.
 */
import { type BigIntStats, readSync } from 'node:fs';
import type { formatPatch as formatPatchType, structuredPatch as structuredPatchType } from 'diff';
import type { ByteString } from '../../artifacts/byte-string.ts';
import { KilnError } from '../../errors.ts';
import type { SingleTask, TaskContext } from '../../host/confine/task.ts';
import { readlinkat } from '../../host/files/at.ts';
import { lookAt, reopen, type Stack } from '../../image/tree/merged.ts';

/** Bytes of a text, and of all of them. */
export const LONGEST_TEXT = 1 << 20;
const MOST_TEXT = 64 << 20;

/** Of one pair of texts, ms; and lines that differ. Comparing takes time with the square of what differs. */
const LONGEST = 2000;
const MOST = 20_000;

export interface PatchInput {
  /** Records in the first descriptor. */
  readonly count: number;
  /** How many of the other descriptors are layers that show what is there now. */
  readonly now: number;
}

/** In the first descriptor it stands behind its length; the caller's text stands behind it. */
export interface PatchRecord {
  readonly path: ByteString;
  /** Whether the layers show it, before and now. */
  readonly before: boolean;
  readonly after: boolean;
  /** It has become something else: what was there is removed, and the other thing added. */
  readonly isOther: boolean;
  /** What lies in the caller's folder. */
  readonly callers?: { readonly mode: string; readonly length: number | null } | undefined;
}

/** A file or link on one side; its text is undefined where it is too long. */
export interface Side {
  readonly mode: string;
  readonly text: Buffer | undefined;
}

let structuredPatch: typeof structuredPatchType;
let formatPatch: typeof formatPatchType;

export const task: SingleTask = {
  async prepare() {
    ({ structuredPatch, formatPatch } = await import('diff'));
  },

  run(input, { fds, emit }) {
    const { count, now } = input as PatchInput;
    const [records = -1, ...layers] = fds;
    const patching = new Patching(records, layers.slice(0, now), layers.slice(now), emit);
    for (let index = 0; index < count; index++) patching.next(index);
  },
};

class Patching {
  readonly #records: number;
  readonly #now: Stack;
  readonly #before: Stack;
  readonly #emit: TaskContext['emit'];
  #bytes = 0;

  constructor(records: number, now: Stack, before: Stack, emit: TaskContext['emit']) {
    this.#records = records;
    this.#now = now;
    this.#before = before;
    this.#emit = emit;
  }

  next(index: number): void {
    const record: PatchRecord = JSON.parse(this.#read(this.#read(4).readUInt32LE()).toString());
    const { path, isOther, callers } = record;
    const before =
      callers === undefined ? this.#side(record.before, this.#before, path) : this.#given(callers);
    const after = this.#side(record.after, this.#now, path);
    if (before !== undefined && after !== undefined && isOther) {
      this.#tell(index, before, undefined);
      this.#tell(index, undefined, after);
    } else if (before !== undefined || after !== undefined) this.#tell(index, before, after);
  }

  #side(isWanted: boolean, stack: Stack, path: ByteString): Side | undefined {
    using open = new DisposableStack();
    const shown = isWanted ? lookAt(stack, path, open) : undefined;
    if (shown === undefined) return undefined;
    const { stats, fd } = shown;
    const read = (size: number) => {
      using file = reopen(shown);
      return file === undefined ? Buffer.alloc(0) : readText(file.fd, size);
    };
    return this.#spend(sideOf(stats, read, () => readlinkat(fd, '')));
  }

  #given({ mode, length }: NonNullable<PatchRecord['callers']>): Side {
    const text = length === null ? undefined : this.#read(length);
    return this.#spend({ mode, text });
  }

  #spend<Told extends Side | undefined>(side: Told): Told {
    this.#bytes += side?.text?.length ?? 0;
    if (this.#bytes > MOST_TEXT) throw tooMuchError();
    return side;
  }

  #tell(index: number, before: Side | undefined, after: Side | undefined): void {
    const isText = [before, after].every((side) => side === undefined || side.text !== undefined);
    const none = Buffer.alloc(0);
    const hunks = isText ? hunksOf(before?.text ?? none, after?.text ?? none) : null;
    this.#emit({ index, before: before?.mode ?? null, after: after?.mode ?? null, hunks });
  }

  #read(length: number): Buffer {
    const into = Buffer.alloc(length);
    for (let at = 0; at < into.length; ) {
      const got = readSync(this.#records, into, at, into.length - at, null);
      if (got === 0) throw new Error('the records are incomplete');
      at += got;
    }
    return into;
  }
}

/** Undefined for what is neither a file nor a link. */
export function sideOf(
  stats: BigIntStats,
  read: (size: number) => Buffer,
  readLink: () => Buffer,
): Side | undefined {
  if (stats.isSymbolicLink()) return { mode: '120000', text: readLink() };
  if (!stats.isFile()) return undefined;
  const mode = (stats.mode & 0o100n) === 0n ? '100644' : '100755';
  return { mode, text: stats.size > LONGEST_TEXT ? undefined : read(Number(stats.size)) };
}

/** As much as there is of that. */
export function readText(fd: number, size: number): Buffer {
  const text = Buffer.alloc(size);
  let length = 0;
  for (let got = 1; got > 0 && length < size; length += got) {
    got = readSync(fd, text, length, size - length, length);
  }
  return text.subarray(0, length);
}

export function tooMuchError(): KilnError {
  return new KilnError('E_CHANGES', 'the changed files are too much for one patch', {
    hint: 'name some of them: `kiln diff --patch ID TARGET PATH`',
  });
}

/** As base64; null where one is no text, or too much differs. One character a byte: no encoding is lost. */
function hunksOf(before: Buffer, after: Buffer): string | null {
  if (before.includes(0) || after.includes(0)) return null;
  const [old, now] = [before.toString('latin1'), after.toString('latin1')];
  const limits = { context: 3, timeout: LONGEST, maxEditLength: MOST };
  const patch = structuredPatch('a', 'b', old, now, undefined, undefined, limits);
  if (patch === undefined) return null;
  if (patch.hunks.length === 0) return '';
  const text = formatPatch(patch, {
    ...{ includeIndex: false, includeUnderline: false, includeFileHeaders: false },
  });
  return Buffer.from(text, 'latin1').toString('base64');
}
