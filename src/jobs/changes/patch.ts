/** Changes as git shows them, for `git apply` and `patch -p1`. Source: git-diff(1), "generating patch text with -p". */
import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { z } from 'zod';
import { type ByteString, toBytes } from '../../artifacts/byte-string.ts';
import type { WithRights } from '../../artifacts/destination.ts';
import { reopenFile } from '../../artifacts/source.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt } from '../../host/calls/libc.ts';
import { checked, tryCall } from '../../host/calls/system-call.ts';
import { runConfined } from '../../host/confine/run.ts';
import { DEEP } from '../../host/confine/task.ts';
import { ENTRY_BELOW, openat2, readlinkat } from '../../host/files/at.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import type { Stack } from '../../image/tree/merged.ts';
import type { Change } from './entry.ts';
import {
  LONGEST_TEXT,
  type PatchInput,
  type PatchRecord,
  readText,
  type Side,
  sideOf,
  tooMuchError,
} from './patch-task.ts';

/** Bytes of all texts of the caller's. */
const MOST = 64 << 20;

const MFD_CLOEXEC = 1;

/** What a patch is made from. */
export interface Sides {
  /** What was there: layers, or a folder that is read with the rights of its owner. */
  readonly before: Stack | { readonly folder: number; readonly rights: WithRights };
  readonly after: Stack;
  /** To whom files in the layers belong. */
  readonly range: IdRange;
}

const MODE = z.enum(['100644', '100755', '120000']).nullable();
const messageSchema = z.strictObject({
  index: z.number().int().min(0),
  before: MODE,
  after: MODE,
  hunks: z.base64().nullable(),
});
type Pair = z.infer<typeof messageSchema> & { readonly path: ByteString };

/**
 * Bytes of one change after the other. What is in a folder that was removed is not told, nor are folders.
 * @throws KilnError E_CHANGES, what {@link runConfined} throws, the signal's reason
 */
export async function* patchOf(
  { before, after, range }: Sides,
  changes: readonly Change[],
  signal?: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  using bundle = closing(
    checked('memfd_create', tryCall('memfd_create', 'kiln-patch', MFD_CLOEXEC)),
  );
  let bytes = 0;
  for (const change of changes) {
    if (change.kind === 'folder' && change.change === 'removed') {
      yield Buffer.from(`# ${quoted('a/', change.path)} was removed with all that is in it\n`);
    }
    const side = 'folder' in before ? callersSide(before, change) : undefined;
    bytes += side?.text?.length ?? 0;
    if (bytes > MOST) throw tooMuchError();
    writeRecord(bundle.fd, change, 'folder' in before ? side : before);
  }
  if (changes.length === 0) return;
  using toRead = closing(openSync(`/proc/self/fd/${bundle.fd}`, constants.O_RDONLY));
  const input: PatchInput = { count: changes.length, now: after.length };
  const below = 'folder' in before ? [] : before;
  const compared = runConfined({
    ...{ task: 'changes-patch', input, fds: [toRead.fd, ...after, ...below], signal },
    ...{ ids: { base: range.base, count: range.count }, limits: { files: DEEP } },
    longestMessage: 16 * LONGEST_TEXT,
    validate: (value) => messageSchema.parse(value),
  });
  let last = 0;
  for await (const pair of compared) {
    const change = changes[pair.index];
    if (change === undefined || pair.index < last) throw new TypeError('a patch is not the next');
    last = pair.index;
    yield patchOfPair({ ...pair, path: change.path });
  }
}

/** As it lies in the caller's folder; undefined for what is not there any more. */
function callersSide(
  { folder, rights }: Exclude<Sides['before'], Stack>,
  { path, change }: Change,
): Side | undefined {
  if (change === 'added') return undefined;
  return attempt(() =>
    rights(() => {
      using entry = closing(openat2(folder, toBytes(path), ENTRY_BELOW));
      const read = (size: number) => {
        using file = closing(reopenFile(entry.fd));
        return readText(file.fd, size);
      };
      const stats = fstatSync(entry.fd, { bigint: true });
      return sideOf(stats, read, () => readlinkat(entry.fd, ''));
    }),
  );
}

/** @param before layers that the child reads, or what the caller's folder has */
function writeRecord(
  fd: number,
  { path, change, kind, was = kind }: Change,
  before: Stack | Side | undefined,
): void {
  const given = before !== undefined && 'mode' in before ? before : undefined;
  const record: PatchRecord = {
    ...{ path, after: change !== 'removed', isOther: was !== kind },
    before: change !== 'added',
    callers: given && { mode: given.mode, length: given.text?.length ?? null },
  };
  const text = Buffer.from(JSON.stringify(record));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  for (const piece of [length, text, given?.text ?? Buffer.alloc(0)]) {
    for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
  }
}

function patchOfPair({ path, before, after, hunks }: Pair): Buffer {
  const [a, b] = [quoted('a/', path), quoted('b/', path)];
  const lines = [`diff --git ${a} ${b}`];
  if (before === null) lines.push(`new file mode ${after}`);
  else if (after === null) lines.push(`deleted file mode ${before}`);
  else if (before !== after) lines.push(`old mode ${before}`, `new mode ${after}`);
  const [from, to] = [before === null ? '/dev/null' : a, after === null ? '/dev/null' : b];
  if (hunks === null) lines.push(`Binary files ${from} and ${to} differ`);
  else if (hunks !== '') lines.push(`--- ${from}`, `+++ ${to}`);
  const head = Buffer.from(`${lines.join('\n')}\n`, 'latin1');
  return hunks === null ? head : Buffer.concat([head, Buffer.from(hunks, 'base64')]);
}

/** As git does, unless the name is plain. */
function quoted(side: string, path: ByteString): string {
  if (/^[\x21\x23-\x5b\x5d-\x7e]+$/.test(path)) return `${side}${path}`;
  const escaped = path.replace(/[^\x20\x21\x23-\x5b\x5d-\x7e]/g, (byte) =>
    byte === '"' || byte === '\\'
      ? `\\${byte}`
      : `\\${byte.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );
  return `"${side}${escaped}"`;
}
