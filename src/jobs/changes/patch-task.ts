/** Compares texts that a sandbox has written with what was there before, in a confined child. */
import { readSync } from 'node:fs';
import type { formatPatch as formatPatchType, structuredPatch as structuredPatchType } from 'diff';
import type { SingleTask } from '../../host/confine/task.ts';

/** Of one pair of texts, ms; and lines that differ. Comparing takes time with the square of what differs. */
const LONGEST = 2000;
const MOST = 20_000;

let structuredPatch: typeof structuredPatchType;
let formatPatch: typeof formatPatchType;

export const task: SingleTask = {
  async prepare() {
    ({ structuredPatch, formatPatch } = await import('diff'));
  },

  run(input, { fds: [fd = -1], emit }) {
    const { count } = input as { count: number };
    const lengths = Buffer.alloc(8);
    for (let index = 0; index < count; index++) {
      readWhole(fd, lengths);
      const [before, after] = [
        readWhole(fd, Buffer.alloc(lengths.readUInt32LE(0))),
        readWhole(fd, Buffer.alloc(lengths.readUInt32LE(4))),
      ];
      emit({ index, hunks: hunksOf(before, after) });
    }
  },
};

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

function readWhole(fd: number, into: Buffer): Buffer {
  for (let at = 0; at < into.length; ) {
    const got = readSync(fd, into, at, into.length - at, null);
    if (got === 0) throw new Error('the texts are incomplete');
    at += got;
  }
  return into;
}
