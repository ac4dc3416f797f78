/** Changes as git shows them, for `git apply` and `patch -p1`. Source: git-diff(1), "generating patch text with -p". */
import { constants, fstatSync, openSync, writeSync } from 'node:fs';
import { z } from 'zod';
import { type ByteString, toBytes } from '../../artifacts/byte-string.ts';
import { reopenFile } from '../../artifacts/source.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt } from '../../host/calls/libc.ts';
import { checked, tryCall } from '../../host/calls/system-call.ts';
import { runConfined } from '../../host/confine/run.ts';
import {
  O_PATH,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
} from '../../host/files/at.ts';
import { readInto } from '../../host/files/content.ts';
import type { Change } from './entry.ts';
import type { Layer } from './layer.ts';

/** Bytes of a text, and of all of them. */
const LONGEST = 1 << 20;
const MOST = 64 << 20;

const MFD_CLOEXEC = 1;

const ENTRY = {
  flags: O_PATH | constants.O_NOFOLLOW,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
};

type ReadAt = <Result>(
  path: ByteString,
  read: (fd: number) => Result | undefined,
) => Result | undefined;

/** Both give undefined for what is not there any more. */
export interface Sides {
  readonly before: ReadAt;
  readonly after: ReadAt;
}

export function sidesOf({ upper, lower, rights }: Layer): Sides {
  return {
    before: (path, read) => attempt(() => rights(() => readAt(lower, path, read))),
    after: (path, read) => attempt(() => readAt(upper, path, read)),
  };
}

function readAt<Result>(
  folder: number,
  path: ByteString,
  read: (fd: number) => Result | undefined,
): Result | undefined {
  using entry = closing(openat2(folder, toBytes(path), ENTRY));
  return read(entry.fd);
}

/** A file or link on one side. */
interface Side {
  readonly mode: string;
  /** Undefined where it is too long. */
  readonly text: Buffer | undefined;
}

interface Pair {
  readonly path: ByteString;
  readonly before: Side | undefined;
  readonly after: Side | undefined;
}

const messageSchema = z.object({
  index: z.number().int().min(0),
  hunks: z.base64().nullable(),
});

/**
 * Bytes of one change after the other. What is in a folder that was removed is not told, nor are folders.
 * @throws KilnError E_CHANGES, what {@link runConfined} throws, the signal's reason
 */
export async function* patchOf(
  sides: Sides,
  changes: readonly Change[],
  signal?: AbortSignal,
): AsyncGenerator<Buffer, void, undefined> {
  const pairs: Pair[] = [];
  using bundle = closing(
    checked('memfd_create', tryCall('memfd_create', 'kiln-patch', MFD_CLOEXEC)),
  );
  let bytes = 0;
  for (const change of changes) {
    if (change.kind === 'folder' && change.change === 'removed') {
      yield Buffer.from(`# ${quoted('a/', change.path)} was removed with all that is in it\n`);
    }
    for (const pair of pairsOf(sides, change)) {
      const texts = [pair.before, pair.after].map((side) => side?.text ?? Buffer.alloc(0));
      bytes += texts.reduce((sum, { length }) => sum + length, 0);
      if (bytes > MOST) throw tooMuchError();
      const lengths = Buffer.alloc(8);
      for (const [at, { length }] of texts.entries()) lengths.writeUInt32LE(length, at * 4);
      for (const piece of [lengths, ...texts]) writeWhole(bundle.fd, piece);
      pairs.push(pair);
    }
  }
  if (pairs.length === 0) return;
  using toRead = closing(openSync(`/proc/self/fd/${bundle.fd}`, constants.O_RDONLY));
  const compared = runConfined({
    ...{ task: 'changes-patch', input: { count: pairs.length }, fds: [toRead.fd], signal },
    longestMessage: 16 * LONGEST,
    validate: (value) => messageSchema.parse(value),
  });
  let next = 0;
  for await (const { index, hunks } of compared) {
    const pair = pairs[next++];
    if (pair === undefined || index !== next - 1) throw new TypeError('a patch is not the next');
    yield patchOfPair(pair, hunks === null ? undefined : Buffer.from(hunks, 'base64'));
  }
}

/** What becomes something else is removed, and added. */
function pairsOf(sides: Sides, { path, change, kind, was = kind }: Change): Pair[] {
  const before = change === 'added' ? undefined : sides.before(path, readSide);
  const after = change === 'removed' ? undefined : sides.after(path, readSide);
  if (before !== undefined && after !== undefined && was !== kind) {
    return [
      { path, before, after: undefined },
      { path, before: undefined, after },
    ];
  }
  return before === undefined && after === undefined ? [] : [{ path, before, after }];
}

/** Undefined for what is neither a file nor a link. */
function readSide(entry: number): Side | undefined {
  const stats = fstatSync(entry);
  if (stats.isSymbolicLink()) return { mode: '120000', text: readlinkat(entry, '') };
  if (!stats.isFile()) return undefined;
  const mode = (stats.mode & 0o100) === 0 ? '100644' : '100755';
  if (stats.size > LONGEST) return { mode, text: undefined };
  using file = closing(reopenFile(entry));
  return { mode, text: readInto(Buffer.alloc(stats.size), file.fd, 0) };
}

function patchOfPair({ path, before, after }: Pair, hunks: Buffer | undefined): Buffer {
  const [a, b] = [quoted('a/', path), quoted('b/', path)];
  const lines = [`diff --git ${a} ${b}`];
  if (before === undefined) lines.push(`new file mode ${after?.mode}`);
  else if (after === undefined) lines.push(`deleted file mode ${before.mode}`);
  else if (before.mode !== after.mode)
    lines.push(`old mode ${before.mode}`, `new mode ${after.mode}`);
  const [from, to] = [
    before === undefined ? '/dev/null' : a,
    after === undefined ? '/dev/null' : b,
  ];
  const isText = [before, after].every((side) => side === undefined || side.text !== undefined);
  if (!isText || hunks === undefined) lines.push(`Binary files ${from} and ${to} differ`);
  else if (hunks.length > 0) lines.push(`--- ${from}`, `+++ ${to}`);
  const head = Buffer.from(`${lines.join('\n')}\n`, 'latin1');
  return isText && hunks !== undefined ? Buffer.concat([head, hunks]) : head;
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

function writeWhole(fd: number, piece: Buffer): void {
  for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
}

function tooMuchError(): KilnError {
  return new KilnError('E_CHANGES', 'the changed files are too much for one patch', {
    hint: 'name some of them: `kiln diff --patch ID TARGET PATH`',
  });
}
