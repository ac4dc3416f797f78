/** Files whose path somebody else chose: a fifo must not block kiln, and a device must not fill its memory. */

import { isUtf8 } from 'node:buffer';
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import { relative } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { closing, isReadable } from '../calls/descriptor.ts';
import { unlessErrno } from '../calls/libc.ts';
import { callerMode } from '../process/own-umask.ts';
import { AT_FDCWD, BENEATH, O_PATH, openat2, RESOLVE_NO_SYMLINKS } from './at.ts';
import { foundAt, type HeldPath, heldParts } from './held.ts';

/**
 * `file`: for paths that a configuration, a recipe or a repository names. `anything`: what the command line
 * names, which may be a pipe (`<(command)`).
 */
export type UserFileKind = 'file' | 'anything';

const READ = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

const PIECE = 64 * 1024;

/** A file that a caller has named is what the caller's client has opened, if it has. */
export function openUserFile(path: string | Buffer): number {
  const fd = openSync(typeof path === 'string' ? foundAt(path) : path, READ);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new Error(`${path} is not a regular file`);
}

/** Whether a path, without `..`, lies in a folder or below. */
export function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`);
}

/**
 * Opens what lies in the folder `below` or deeper, by links that do not lead out of it, whoever puts one there meanwhile.
 * A path elsewhere is opened as it is: whoever chose it was allowed to.
 * @param below absolute, without links
 * @throws the kernel's error: EXDEV, or ELOOP, for a link that leads out
 */
export function openWithin(path: string, below: string): number {
  if (!isWithin(path, below)) return openUserFile(path);
  const held = heldParts(foundAt(below)) ?? { fd: AT_FDCWD, rest: below };
  using folder = closing(openat2(held.fd, held.rest || '.', FOLDER));
  return openat2(folder.fd, relative(below, path) || '.', BENEATH);
}

const FOLDER = { flags: O_PATH | constants.O_DIRECTORY, resolve: RESOLVE_NO_SYMLINKS };

/** @param below a folder as {@link openWithin} takes it */
export function readUserFile(
  path: string,
  limit: number,
  kind: UserFileKind = 'file',
  below?: string,
): Buffer {
  using file = closing(opened(path, kind, below));
  const { fd } = file;
  if (fstatSync(fd).isFIFO()) awaitContent(fd, path);
  const pieces: Buffer[] = [];
  for (let length = 0; length <= limit; ) {
    const piece = Buffer.allocUnsafe(Math.min(PIECE, limit + 1 - length));
    const count = unlessErrno(['EAGAIN'], () => readSync(fd, piece));
    if (count === undefined) {
      awaitContent(fd, path);
      continue;
    }
    if (count === 0) return Buffer.concat(pieces, length);
    pieces.push(piece.subarray(0, count));
    length += count;
  }
  throw new Error(`${path} is larger than ${limit} bytes`);
}

/** How often a pipe is looked at, ms. */
const LOOK = 20;

/**
 * As {@link readUserFile} of `anything`, but waits for whoever writes into a pipe until `signal` is aborted, and blocks no
 * thread meanwhile. Content whose writer is gone already is taken; a pipe nobody has written into is not taken as empty.
 * @throws the signal's reason
 */
export async function readPatiently(
  path: string,
  limit: number,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  // With a writer gone, opening a named pipe would wait for the next one.
  using file = closing(openSync(path, READ));
  const { fd } = file;
  const isPipe = fstatSync(fd).isFIFO();
  const bytes = Buffer.alloc(limit + 1);
  let length = 0;
  for (let isWaiting = isPipe; length <= limit; ) {
    signal?.throwIfAborted();
    if (isWaiting && !isReadable(fd, 0)) {
      await setTimeout(LOOK);
      continue;
    }
    const count = unlessErrno(['EAGAIN'], () =>
      readSync(fd, bytes, length, bytes.length - length, null),
    );
    if (count === 0) return bytes.subarray(0, length);
    isWaiting = count === undefined;
    length += count ?? 0;
  }
  throw new Error(`${path} is larger than ${limit} bytes`);
}

function opened(path: string, kind: UserFileKind, below: string | undefined): number {
  if (kind === 'anything') return openSync(path, READ);
  if (below === undefined) return openUserFile(path);
  const fd = openWithin(path, below);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new Error(`${path} is not a regular file`);
}

/** As {@link readUserFile}, but text in UTF-8; `refusal` makes the error that is thrown. */
export function readUserText(
  path: string,
  limit: number,
  refusal: (cause: unknown) => Error,
  below?: string,
): string {
  try {
    return utf8Text(readUserFile(path, limit, 'file', below), path);
  } catch (cause) {
    throw refusal(cause);
  }
}

/** What is wrong is no path: hints about one would mislead. */
export class NotUtf8 extends Error {
  static readonly hint =
    'save it as UTF-8: `iconv -f ISO-8859-1 -t UTF-8 FILE` writes it so, if it is Latin-1';
}

/** Other bytes are refused: as text, they would silently become others. @throws NotUtf8 */
export function utf8Text(bytes: Buffer, path: string): string {
  if (isUtf8(bytes)) return bytes.toString('utf8');
  throw new NotUtf8(`line ${lineNotUtf8(bytes.toString('utf8'))} of ${path} is not UTF-8`);
}

/** @param text of bytes that are not UTF-8, in place of which it has another character */
export function lineNotUtf8(text: string): number {
  return text.slice(0, text.indexOf('\ufffd')).split('\n').length;
}

/** How long a pipe may be silent, ms. */
const PIPE_SILENCE = 5000;

function awaitContent(fd: number, path: string): void {
  if (isReadable(fd, PIPE_SILENCE)) return;
  throw new Error(`nothing comes from ${path}, which is a pipe`);
}

/** Without O_TRUNC: what is not a regular file must stay unchanged. */
const WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** The folder may be somebody else's: follows no link, writes regular files only. @throws Error */
export function writeUserFile(path: HeldPath, content: string): void {
  using file = closing(openSync(path, WRITE, callerMode(0o644)));
  if (!fstatSync(file.fd).isFile()) throw new Error(`${path} is not a regular file`);
  ftruncateSync(file.fd);
  writeFileSync(file.fd, content);
}
