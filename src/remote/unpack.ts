/** Files that come from the other end of a connection: whatever that says, they stay in their folder. */
import { constants, fchmodSync, ftruncateSync, write } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { promisify } from 'node:util';
import { type Extract, extract, type Header } from 'tar-stream';
import { KilnError } from '../errors.ts';
import { closeDescriptor, closing } from '../host/calls/descriptor.ts';
import { unlessErrno } from '../host/calls/libc.ts';
import {
  mkdirat,
  NEW_FILE,
  openat2,
  RESOLVE_BELOW,
  renameat,
  symlinkat,
  unlinkat,
} from '../host/files/at.ts';
import { awaitedLater } from '../promise.ts';

/** Entries of an archive, and bytes of all together: as many as artifacts may have. */
const ENTRIES_MAX = 200_000;
const BYTES_MAX = 64 * 2 ** 30;

export interface Root {
  readonly folder: number;
  readonly only?: string | undefined;
}

type Roots = (first: string) => Root | undefined;

/** Existing files are replaced, one at a time. `over` throws KilnError E_REMOTE_ARCHIVE. */
export function unpacker(roots: Roots): {
  readonly stream: Writable;
  readonly over: Promise<void>;
} {
  const stream = extract();
  const over = awaitedLater(take(stream, roots));
  return { stream: stream as unknown as Writable, over };
}

async function take(stream: Extract, roots: Roots): Promise<void> {
  let [entries, bytes] = [0, 0];
  try {
    for await (const entry of stream) {
      const { header } = entry;
      bytes += header.size ?? 0;
      if (++entries > ENTRIES_MAX || bytes > BYTES_MAX) throw foreignError('it has too many files');
      const [first = '', ...rest] = header.name.replace(/\/+$/, '').split('/');
      const root = roots(first);
      const isOther = root?.only !== undefined && rest.length > 0 && rest[0] !== root.only;
      const isOdd = rest.some((part) => ['', '.', '..'].includes(part) || part.includes('\0'));
      if (root === undefined || isOther || isOdd) {
        throw foreignError(`it has ${JSON.stringify(header.name)}`);
      }
      await place(entry as unknown as Readable, header, root.folder, rest);
      entry.resume();
    }
  } catch (error) {
    stream.destroy();
    throw error instanceof KilnError ? error : foreignError((error as Error).message, error);
  }
}

async function place(
  content: Readable,
  header: Header,
  root: number,
  parts: readonly string[],
): Promise<void> {
  const { type = 'file', mode = 0o644 } = header;
  if (type === 'directory') {
    closeDescriptor(openFolder(root, parts));
    return;
  }
  const name = parts.at(-1);
  if (name === undefined) throw foreignError('a file would be in place of a folder');
  using opened = closing(openFolder(root, parts.slice(0, -1)));
  const folder = opened.fd;
  const temporary = `.kiln-${process.pid}.new`;
  const remove = () => unlessErrno(['ENOENT'], () => unlinkat(folder, temporary));
  remove();
  using rest = new DisposableStack();
  rest.defer(remove);
  if (type === 'symlink') symlinkat(header.linkname ?? '', folder, temporary);
  else if (type === 'file') {
    using file = closing(openat2(folder, temporary, { ...NEW_FILE, resolve: RESOLVE_BELOW }));
    await fill(file.fd, content);
    fchmodSync(file.fd, mode & 0o777);
  } else throw foreignError(`it has a ${type}`);
  renameat(folder, temporary, folder, name);
}

const writeAt = promisify(write);
const ZEROS = Buffer.alloc(64 * 1024);

/** Zeros become holes: an archive has none, and those of a file can be more than this machine's disk has room for. */
async function fill(fd: number, content: Readable): Promise<void> {
  let size = 0;
  for await (const chunk of content as AsyncIterable<Buffer>) {
    for (let from = 0; from < chunk.length; from += ZEROS.length) {
      const piece = chunk.subarray(from, from + ZEROS.length);
      const isHole = piece.equals(ZEROS.subarray(0, piece.length));
      for (let at = isHole ? piece.length : 0; at < piece.length; ) {
        at += (await writeAt(fd, piece, at, piece.length - at, size + at)).bytesWritten;
      }
      size += piece.length;
    }
  }
  ftruncateSync(fd, size);
}

function openFolder(root: number, parts: readonly string[]): number {
  const how = { flags: constants.O_RDONLY | constants.O_DIRECTORY, resolve: RESOLVE_BELOW };
  let at = openat2(root, '.', how);
  for (const part of parts) {
    const above = at;
    using _above = closing(above);
    unlessErrno(['EEXIST'], () => mkdirat(above, part, 0o777));
    at = openat2(above, part, how);
  }
  return at;
}

function foreignError(why: string, cause?: unknown): KilnError {
  return new KilnError('E_REMOTE_ARCHIVE', `what the other machine sent is not taken: ${why}`, {
    hint: 'files that came before stay; both ends need the same kiln, and a disk with room',
    cause,
  });
}
